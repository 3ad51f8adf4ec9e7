"""The one exception that a user's mistake raises."""


class PartnasError(Exception):
    """Bad input, told in one line: the file (or argument), the field, and the fix.

    The command line prints the message without a traceback and exits with status 1.
    """
