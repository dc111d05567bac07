"""Small clips, and the FFmpeg that torchcodec needs where the system has none: PyAV's own libraries, by other names."""

import ctypes
import re
import shutil
import tempfile
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_ORDER = ("libavutil", "libswresample", "libswscale", "libavcodec", "libavformat", "libavfilter", "libavdevice")


@cache
def provide_ffmpeg() -> None:
    """Load FFmpeg for torchcodec where the system has none; processes that are forked from this one have it too.

    PyAV's libraries carry a hash in their names, and name each other by it; torchcodec asks for the usual names.
    """
    if find_library("avutil"):
        return
    import av

    folder = Path(av.__file__).parent.parent / "av.libs"
    found = {p.name: re.fullmatch(r"(lib(?:av|sw)\w+)-[0-9a-f]+\.so\.(\d+)\..*", p.name) for p in folder.iterdir()}
    names = {name.encode(): f"{match[1]}.so.{match[2]}".encode() for name, match in found.items() if match}
    copies = Path(tempfile.mkdtemp())
    try:
        for name, usual in names.items():
            data = (folder / name.decode()).read_bytes()
            for long, short in names.items():
                data = data.replace(long + b"\0", short.ljust(len(long), b"\0") + b"\0")
            (copies / usual.decode()).write_bytes(data)
        for start in _ORDER:
            ctypes.CDLL(str(next(copies.glob(f"{start}.so.*"))))
    finally:
        shutil.rmtree(copies)


def encode_clip(frames_THWC: NDArray[np.uint8], container: str = "mp4", rate: int = 10) -> bytes:
    """The file of a clip, near enough to the frames."""
    from torchcodec.encoders import VideoEncoder

    frames = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).contiguous()
    made: Any = VideoEncoder(frames, frame_rate=rate)
    return bytes(made.to_tensor(format=container).numpy().tobytes())


DIRECTIONS = ("down", "left", "right", "up")


def moving_crops(direction: str, frames: int, seed: int, side: int = 32, step: int = 4) -> NDArray[np.uint8]:
    """A window that moves over a made-up picture, (T, side, side, 3): a disc on coarse noise, so that something is to
    be seen in it wherever it is. The frames of opposite directions are the same, in another order."""
    rng = np.random.default_rng(seed)
    way = step * (frames - 1)
    whole = side + way
    cells = -(-whole // 8)
    picture = np.kron(rng.integers(0, 90, (cells, cells, 3)), np.ones((8, 8, 1)))[:whole, :whole]
    centre, radius = rng.uniform(0.3, 0.7, 2) * whole, rng.uniform(0.12, 0.2) * whole
    rows, columns = np.mgrid[:whole, :whole]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    picture[inside] += rng.uniform(100, 160, 3)
    across = rng.integers(0, way + 1)
    along = [step * t for t in range(frames)]
    if direction in ("left", "up"):
        along.reverse()
    corners = [(across, place) if direction in ("left", "right") else (place, across) for place in along]
    return np.stack([picture[top : top + side, left : left + side] for top, left in corners]).astype(np.uint8)


def grey_frames(length: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Frames of one grey each, 8 apart, so that any of them is known by its grey."""
    greys = (8 * np.arange(length, dtype=np.uint8))[:, None, None, None]
    return np.broadcast_to(greys, (length, height, width, 3)).copy()
