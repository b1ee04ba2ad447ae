"""The one error that means "the input is at fault"."""


class InputError(ValueError):
    """Something the user gave is wrong; commands print the message and exit with 2.

    The message is one line that says what, where, and what to do.
    """
