"""The one error that means "the input is at fault", and what it says of others."""


class InputError(ValueError):
    """Something the user gave is wrong; commands print the message and exit with 2.

    The message is one line that says what, where, and what to do.
    """


def first_line(error: BaseException) -> str:
    """What an error of another library says first; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
