"""The one error that means "the input is at fault"."""


class InputError(ValueError):
    """Something the user gave is wrong: one line that says what, where, and what to do. Commands print it and exit with
    2."""
