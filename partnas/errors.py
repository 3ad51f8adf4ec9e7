"""What ends a job with one line instead of a traceback: a user's mistake, or Ctrl-C."""


class PartnasError(Exception):
    """Bad input, told in one line: the file (or argument), the field, and the fix.

    The command line prints the message without a traceback and exits with ``exit_status``.
    """

    exit_status = 1


class RunFailed(PartnasError):
    """A run cannot be finished, as when its loss is no longer finite; other runs of the same settings may be."""


class Stopped(PartnasError):
    """The user pressed Ctrl-C; the state is saved."""

    exit_status = 130
