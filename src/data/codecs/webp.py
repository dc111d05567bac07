"""WebP: the chunk that holds the picture."""


def picture_chunk(data: bytes) -> bytes:
    """The first `VP8 ` (lossy) or `VP8L` (lossless) chunk with its head, also of an animation; empty without one."""
    place = 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return data[place : place + 8 + length + length % 2]
        place += 24 if kind == b"ANMF" else 8 + length + length % 2  # into the first frame, past all else
    return b""


def stripped_webp(data: bytes) -> bytes:
    """A still picture without transparency, EXIF, XMP and profile: the same pixels."""
    chunk = picture_chunk(data)
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
