"""What the task video works with: a clip whose frames are decoded when asked for, a view of it, a head over time.

Legend: B clips, T frames, C channels, D width of the head.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data.codecs.bands import Pixels
from data.codecs.decode import check_size
from data.codecs.parsers import PARSER_ERRORS, DecodeError
from data.codecs.targets import Target
from data.loading.views import Seen, View
from data.order.hashing import uniform
from swinmim.errors import ConfigError

log = logging.getLogger(__name__)

_START = 1000  # number of the draw: far behind those of a crop


def require_decoder() -> None:
    """Raises ConfigError: torchcodec, or what it needs, is not here."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"\0" * 64)
    except ImportError as error:
        raise ConfigError("task=video reads clips with torchcodec: pip install 'swinmim[video]'.") from error
    except RuntimeError as error:  # at least that this is no clip
        if "Could not load libtorchcodec" in str(error):
            raise ConfigError(
                "task=video reads clips with torchcodec, which finds no FFmpeg (shared libraries of version 4 to 9) or"
                " is made for another torch. Install it (apt install ffmpeg, or conda install -c conda-forge ffmpeg)."
                " All reasons: python -c 'import torchcodec.decoders as d; d.VideoDecoder(bytes(9))'"
            ) from error


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except PARSER_ERRORS as error:
        reason = re.sub(r"^.*?\.(cpp|h):\d+, ", "", str(error)).partition("\n")[0]
        raise DecodeError(f"damaged clip ({reason:.100})") from error


class Clip:
    """A clip; the frames that its file holds are counted on opening, and decoded by `read`.

    shape: (height, width).
    Raises DecodeError: damaged, without frames, or too large.
    """

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self._data = data
        with _decoding():
            self._decoder = self._new_decoder()
            found = self._decoder.metadata
            self.shape, self._frames = (found.height or 0, found.width or 0), len(self._decoder)
        if not self._frames or not all(self.shape):
            raise DecodeError("a clip without frames")
        check_size(*self.shape[::-1], max_pixels)

    def _new_decoder(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        return VideoDecoder(self._data, dimension_order="NHWC", seek_mode="exact")

    def __len__(self) -> int:
        return self._frames

    def read(self, places: Sequence[int]) -> Tensor:
        """These frames, in this order; uint8 (T, H, W, C). Raises DecodeError."""
        with _decoding():
            frames_THWC: Tensor = self._decoder.get_frames_at(list(places)).data
        return frames_THWC

    def still(self) -> Pixels:
        """The frame in the middle; raises DecodeError."""
        pixels: Pixels = self.read([self._frames // 2])[0].numpy()
        return pixels

    def is_cut_short(self) -> bool:
        """Whether only some frames at its beginning can be decoded, after which these are all that it has."""
        good, bad = 0, self._frames
        while good < bad:
            middle, self._decoder = (good + bad) // 2, self._new_decoder()  # after an error one is of no more use
            try:
                self.read([middle])
                good = middle + 1
            except DecodeError:
                bad = middle
        before, self._frames, self._decoder = self._frames, good, self._new_decoder()
        return 0 < good < before


def chosen_frames(length: int, frames: int, stride: int, share: float) -> list[int]:
    """So many frames of a clip, `stride` apart, beginning at this share of what a start may be, from 0 to 1.

    In a shorter clip they lie closer together; where there are too few, the last one is repeated.
    """
    if frames > 1:
        stride = max(1, min(stride, (length - 1) // (frames - 1)))
    latest = max(0, length - 1 - (frames - 1) * stride)
    start = min(latest, int(share * (latest + 1)))
    return [min(start + stride * n, length - 1) for n in range(frames)]


class FramesView:
    """A view of clips: frames that go through a view of images together, with the same crop and flip.

    Args:
        view: of each frame.
        size: (height, width) that it returns.
        frames, stride: see `chosen_frames`.
        clips: so many times `frames`, evenly spread over the clip; None for once, from a random start.
        short: what becomes of a clip with fewer frames: the last is repeated, which is said once, or it is refused.
    """

    def __init__(
        self,
        view: View,
        size: tuple[int, int],
        frames: int,
        stride: int,
        *,
        clips: int | None = None,
        short: Literal["repeat", "refuse"] = "repeat",
    ) -> None:
        self.view, self.frames, self.stride, self.clips, self.short = view, frames, stride, clips, short
        self.shape = (frames * (clips or 1), *size, 3)
        self._said = torch.zeros(1)
        self._said.share_memory_()  # type: ignore[no-untyped-call]

    def open(self, data: bytes, max_pixels: int) -> Clip:
        return Clip(data, max_pixels)

    def __call__(self, clip: Clip, target: Target | None, seed: int) -> tuple[Tensor, Seen]:
        """(T, height, width, 3), or of `clips` one after the other; raises DecodeError."""
        try:
            frames_THWC = self._read(clip, seed)
        except DecodeError:
            if not clip.is_cut_short():
                raise
            frames_THWC = self._read(clip, seed)
        return torch.stack([self.view(frame_HWC, None, seed)[0] for frame_HWC in frames_THWC]), None

    def _read(self, clip: Clip, seed: int) -> Tensor:
        if len(clip) < self.frames:
            self._tell(f"a clip has {len(clip)} frames, fewer than task.frames={self.frames}")
        starts = [uniform(seed, _START)] if self.clips is None else [(n + 0.5) / self.clips for n in range(self.clips)]
        places = [place for share in starts for place in chosen_frames(len(clip), self.frames, self.stride, share)]
        return clip.read(places)

    def _tell(self, text: str) -> None:
        if self.short == "refuse":
            raise DecodeError(text)
        if not self._said:
            self._said.fill_(1)
            log.warning(
                "%s: its last frame is repeated, as in all such clips (task.short=refuse leaves them out)", text
            )


class TimeHead(nn.Module):
    """Vectors of frames (B, clips * T, C) -> logits (B, classes), averaged over the clips.

    A transformer over the frames' vectors with learned time positions, pre-norm, then their mean. Without layers it is
    the mean of the frames, which knows nothing of their order.
    """

    def __init__(self, features: int, classes: int, frames: int, width: int, layers: int) -> None:
        super().__init__()
        self.frames = frames
        self.embed = nn.Linear(features, width)
        # As large as the vectors they are added to; with the usual 0.02 the order is found late or never.
        self.time_TD = nn.Parameter(nn.init.normal_(torch.empty(frames, width), std=0.3)) if layers else None
        heads = max(1, width // 64)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.classify.weight, std=0.02)
        nn.init.zeros_(self.classify.bias)

    def forward(self, vectors_BNC: Tensor) -> Tensor:
        batch = len(vectors_BNC)
        tokens = self.embed(vectors_BNC.reshape(-1, self.frames, vectors_BNC.shape[2]))
        if self.time_TD is not None:
            tokens = tokens + self.time_TD
        means = self.norm(self.blocks(tokens)).mean(1)
        logits: Tensor = self.classify(means).reshape(batch, -1, self.classify.out_features).mean(1)
        return logits
