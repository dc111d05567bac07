"""Formats of images and clips by the endings of their names, or their first bytes. A first sieve; decoders decide."""

import re

CLIPS = ("mp4", "avi", "webm")
"""Videos. A set has images or clips."""
# What shards hold; an index counts them.
SUFFIXES = ("jpg", "png", "webp", "tif", "npy", *CLIPS)
# As others spell them in tars, in the order in which one is taken where a sample has several, with their numbers.
SUFFIX_NUMBERS = {"jpg": 0, "jpeg": 0, "png": 1, "webp": 2, "tif": 3, "tiff": 3, "npy": 4}
# What is read and written anew as well.
EXTENSIONS = frozenset(SUFFIX_NUMBERS) | {"jpe", "jfif", "bmp", "dib", "gif", "ppm", "pgm", "pnm", "jp2"}

HEAD = 16
"""First bytes that `is_image_head` wants to see."""
_CLIP_HEADS = {"mp4": re.compile(rb"....ftyp", re.DOTALL), "avi": re.compile(rb"RIFF....AVI ", re.DOTALL)}
_CLIP_HEADS |= {"webm": re.compile(rb"\x1aE\xdf\xa3")}
_HEADS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM....\0\0\0\0|P[1-6][ \t\r\n]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|\x93NUMPY",
    re.DOTALL,
)


def is_image_head(head: bytes) -> bool:
    """Whether a file that begins so is of a format that is read."""
    return _HEADS.match(head) is not None


def clip_suffix(data: bytes) -> str | None:
    """What a file of a clip is called by its first bytes; None for all else."""
    return next((suffix for suffix, head in _CLIP_HEADS.items() if head.match(data)), None)


def lacks_index(data: bytes) -> bool:
    """Whether an mp4 has no whole table of its frames, without which none can be found; it mostly stands at the end."""
    place = 0
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if size == 1:  # it has 64 bits and stands behind the kind
            size = int.from_bytes(data[place + 8 : place + 16])
        elif size == 0:  # to the end
            size = len(data) - place
        if kind == b"moov":
            return place + size > len(data)
        if size < 8:
            return True
        place += size
    return True
