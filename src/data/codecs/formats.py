"""Formats of images by the endings of their names, or their first bytes. A first sieve; the decoder decides."""

import re

# What shards hold; an index counts them.
SUFFIXES = ("jpg", "png", "webp", "tif", "npy")
# As others spell them in tars, in the order in which one is taken where a sample has several, with their numbers.
SUFFIX_NUMBERS = {"jpg": 0, "jpeg": 0, "png": 1, "webp": 2, "tif": 3, "tiff": 3, "npy": 4}
# What is read and written anew as well.
EXTENSIONS = frozenset(SUFFIX_NUMBERS) | {"jpe", "jfif", "bmp", "dib", "gif", "ppm", "pgm", "pnm", "jp2"}

HEAD = 16
"""First bytes that `is_image_head` wants to see."""
_HEADS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM....\0\0\0\0|P[1-6][ \t\r\n]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|\x93NUMPY",
    re.DOTALL,
)


def is_image_head(head: bytes) -> bool:
    """Whether a file that begins so is of a format that is read."""
    return _HEADS.match(head) is not None
