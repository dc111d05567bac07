"""What parsers written by others (Pillow, tifffile) do on hostile files, and how it is kept in."""

import lzma
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

# No common class but Exception, which would hide faults of ours and of the machine as well.
PARSER_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, lzma.LZMAError, struct.error, zlib.error),
)


class DecodeError(ValueError):
    """These bytes are not an image we accept. The message is a short reason."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings about damage, which is refused or does not matter, and its limit, which is ours."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        Image.MAX_IMAGE_PIXELS = None  # Pillow only warns up to twice its own limit
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def parsing(reason: str) -> Iterator[None]:
    """`quiet`, and what a parser raises is a DecodeError of this reason and its own."""
    try:
        with quiet():
            yield
    except DecodeError:
        raise
    except PARSER_ERRORS as error:
        raise DecodeError(f"{reason} ({error})") from error
