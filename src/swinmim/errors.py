"""Errors that a user can act on. Each prints as one message, without a stack trace, and sets the exit code.

Exit codes: 0 success, 1 a fault of the program, 2 configuration, 3 data, 4 checkpoint.
"""


class UserError(Exception):
    """A mistake the user can mend. The message says the rule, what was received, and the likely fix."""

    exit_code = 1


class ConfigError(UserError):
    """The composed configuration breaks a rule; the message lists every problem found."""

    exit_code = 2


class DataError(UserError):
    """Images, shards or labels cannot be used as they are."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint or encoder folder is missing, incomplete, or of another architecture."""

    exit_code = 4
