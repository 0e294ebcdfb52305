"""The one exception that bad input raises."""


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one line that says what was found, where (file, tensor, module or row), what was
    expected, and what to do. Commands print it as it is and exit with status 1.
    """
