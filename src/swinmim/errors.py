"""Errors that a user can act on. Each prints as one message, without a stack trace, and sets the exit code.

Exit codes: 0 success, 1 a fault of the program, 2 configuration, 3 data, 4 checkpoint, 5 the training left the finite
numbers, 69 another process of the run died or hangs, 75 stopped by a signal with everything saved, 130 Ctrl-C.
After 69 and 75 the same command with `resume=auto` goes on; after 5 someone should look first. See docs/faults.md.
"""

import errno
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swinmim.outside import printable

RANK_LOST = 69
"""Exit code (EX_UNAVAILABLE) of a process that ends because another one of the run is gone or stands still."""


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""


@contextmanager
def one_line_at_interrupt(name: str) -> Iterator[None]:
    """Ctrl-C inside ends the process with one line and exit code 130, also while libraries are imported."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


class UserError(Exception):
    """A mistake the user can mend. The message says the rule, what was received, and the likely fix."""

    exit_code = 1
    label = "error"
    """Word before the message."""

    def __str__(self) -> str:
        return printable(super().__str__())  # names of files, labels and keys are other people's


class ConfigError(UserError):
    """The composed configuration breaks a rule; the message lists every problem found."""

    exit_code = 2


class DataError(UserError):
    """Images, shards or labels cannot be used as they are."""

    exit_code = 3


class TooFewImages(DataError):
    """A global batch is larger than the training set, or than a mixture gives. Which batch would fit, the run knows,
    from all of its settings.

    Args:
        message: the rule and what was received.
        images: of the training set.
        fits: whether a global batch in so many lanes can be made of them.
    """

    def __init__(self, message: str, images: int, fits: Callable[[int, int], bool]) -> None:
        super().__init__(message)
        self.images, self.fits = images, fits


class CheckpointError(UserError):
    """A checkpoint or encoder folder is missing, incomplete, or of another architecture."""

    exit_code = 4


class DivergedError(UserError):
    """Loss or gradients stayed non-finite, or the loss spiked again right after a rewind."""

    exit_code = 5


class Stopped(UserError):
    """A signal asked the run to end; a checkpoint is written. EX_TEMPFAIL: run me again."""

    exit_code = 75
    label = "stopped"


def limit_of(error: BaseException) -> str | None:
    """Which limit of the machine an error of the system or of a library has met, and the cure; None for no limit."""
    number, text = getattr(error, "errno", None), str(error)
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text or "ancdata" in text:
        return (
            f"This process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files open at once, which is too "
            "few for its loader processes. Raise the limit in the shell that starts the run (ulimit -n 65536), or add "
            "data.num_workers=0, which needs the least."
        )
    if "shared memory" in text or "Bus error" in text:
        room = shutil.disk_usage("/dev/shm")
        return (
            f"/dev/shm, where loader processes leave their images, is too small: {room.total:,} bytes, {room.free:,} "
            "of them free. Give it more (docker run --shm-size=8g), lower batch_size, or add data.num_workers=0, which "
            "does without."
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"The disk is full: no room is left{where}. Make room, and continue with resume=auto."
    return None
