"""Clips: which frames are taken, what is damaged, one crop for all frames, and the head over time."""

import logging
import sys

import numpy as np
import pytest
import torch
from made_clips import encode_clip, grey_frames, provide_ffmpeg
from torch import nn

from data.codecs.decode import DecodeError
from data.codecs.encode import check_clip
from data.loading.views import CenterCrop, RandomCrop
from finetune.heads import clips
from finetune.heads.clips import Clip, FramesView, TimeHead, chosen_frames, require_decoder
from swinmim.errors import ConfigError

PIXELS = 1_000_000


@pytest.fixture(autouse=True, scope="module")
def ffmpeg():
    provide_ffmpeg()


def greys(frames_THWC):
    """Numbers of the frames of `grey_frames`."""
    return (frames_THWC.float().mean((1, 2, 3)) / 8).round().int().tolist()


@pytest.mark.parametrize(
    ("length", "frames", "stride", "share", "expected"),
    [
        (30, 4, 3, 0.0, [0, 3, 6, 9]),
        (30, 4, 3, 0.5, [10, 13, 16, 19]),
        (30, 4, 3, 1.0, [20, 23, 26, 29]),
        (10, 4, 3, 0.7, [0, 3, 6, 9]),
        (9, 4, 3, 0.0, [0, 2, 4, 6]),  # closer together
        (9, 4, 3, 0.99, [2, 4, 6, 8]),
        (4, 4, 3, 0.9, [0, 1, 2, 3]),
        (3, 4, 3, 0.9, [0, 1, 2, 2]),
        (1, 4, 3, 0.0, [0, 0, 0, 0]),
        (5, 1, 3, 0.99, [4]),
        (1, 1, 1, 0.5, [0]),
    ],
)
def test_frames_lie_a_stride_apart_where_the_clip_is_long_enough(length, frames, stride, share, expected):
    assert chosen_frames(length, frames, stride, share) == expected


@pytest.mark.parametrize("container", ["mp4", "avi", "webm"])
def test_frames_are_those_of_the_file(container):
    data = encode_clip(grey_frames(20), container)
    assert check_clip(data) == container
    clip = Clip(data, PIXELS)
    assert (len(clip), clip.shape) == (20, (48, 64))
    frames = clip.read([0, 7, 19, 19, 3])
    assert (frames.shape, frames.dtype) == ((5, 48, 64, 3), torch.uint8)
    assert greys(frames) == [0, 7, 19, 19, 3]


def test_the_middle_frame_stands_for_the_clip():
    still = Clip(encode_clip(grey_frames(21), "avi"), PIXELS).still()
    assert (still.shape, round(still.mean() / 8)) == ((48, 64, 3), 10)


@pytest.mark.parametrize("container", ["avi", "webm"])
def test_a_clip_cut_short_has_the_frames_that_are_left(container):
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    data = encode_clip(noise, container)
    clip = Clip(data[: len(data) * 7 // 10], PIXELS)
    assert 8 <= len(clip) < 20
    frames = FramesView(CenterCrop((16, 16), 1.0), (16, 16), 4, 2, clips=2)(clip, None, 0)[0]
    assert frames.shape == (8, 16, 16, 3)


class Torn:
    """A decoder whose file names 20 frames, of which the first `sound` can be decoded."""

    def __init__(self, sound):
        self.sound, self.metadata = sound, type("Metadata", (), {"height": 8, "width": 8})

    def __len__(self):
        return 20

    def get_frames_at(self, places):
        if max(places) >= self.sound:
            self.sound = 0  # as torchcodec, which is of no more use then
            raise RuntimeError("SingleStreamDecoder, /a/b.cpp:70, Could not push packet\nand more")
        frames = torch.tensor(places, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3)
        return type("Frames", (), {"data": frames})


@pytest.mark.parametrize("sound", [18, 12, 4, 1])
def test_frames_that_the_file_names_and_does_not_hold_are_found_out(monkeypatch, sound):
    monkeypatch.setattr(Clip, "_new_decoder", lambda self: Torn(sound))
    clip = Clip(b"", PIXELS)
    frames = FramesView(CenterCrop((8, 8), 1.0), (8, 8), 4, 1, clips=5)(clip, None, 0)[0]
    assert len(clip) == sound
    assert frames.max() < sound


def test_a_clip_of_which_no_frame_can_be_decoded_is_damaged(monkeypatch):
    monkeypatch.setattr(Clip, "_new_decoder", lambda self: Torn(0))
    with pytest.raises(DecodeError, match=r"^damaged clip \(Could not push packet\)$"):
        FramesView(CenterCrop((8, 8), 1.0), (8, 8), 4, 1)(Clip(b"", PIXELS), None, 0)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"RIFF\0\0\0\0AVI LIST", b"\x1aE\xdf\xa3" * 20], ids=range(4))
def test_what_holds_no_frames_is_damaged(data):
    with pytest.raises(DecodeError, match="damaged clip"):
        Clip(data, PIXELS)


def test_a_clip_that_is_too_large_is_refused_before_a_frame_is_decoded():
    with pytest.raises(DecodeError, match="64x48 exceeds max_pixels=3000"):
        Clip(encode_clip(grey_frames(2), "avi"), 3000)


def test_all_frames_have_the_same_crop_and_flip():
    rows, columns = np.mgrid[:48, :64]
    still = np.broadcast_to(np.stack([2 * rows, 3 * columns, rows + columns], 2).astype(np.uint8), (6, 48, 64, 3))
    view = FramesView(RandomCrop((16, 16), (0.2, 0.5), flip=True), (16, 16), 6, 1)
    clip = Clip(encode_clip(still.copy(), "avi"), PIXELS)
    seen = [view(clip, None, seed)[0].int() for seed in range(6)]
    for frames in seen:
        assert (frames - frames[:1]).abs().max() <= 8  # as exact as the codec
    mirrored = [bool(frames[0, 8, 0, 1] > frames[0, 8, -1, 1]) for frames in seen]
    assert set(mirrored) == {True, False}
    assert (seen[0] - seen[1]).abs().max() > 8


def test_training_starts_at_a_frame_of_the_seed_and_evaluation_spreads():
    clip = Clip(encode_clip(grey_frames(20), "avi"), PIXELS)
    training = FramesView(CenterCrop((16, 16), 1.0), (16, 16), 3, 2)
    firsts = [greys(training(clip, None, seed)[0]) for seed in range(150)]
    assert all(row == [row[0], row[0] + 2, row[0] + 4] for row in firsts)
    assert {row[0] for row in firsts} >= {0, 15}
    assert greys(training(clip, None, 3)[0]) == firsts[3]
    evaluation = FramesView(CenterCrop((16, 16), 1.0), (16, 16), 3, 2, clips=4)
    assert evaluation.shape == (12, 16, 16, 3)
    assert greys(evaluation(clip, None, 3)[0]) == [2, 4, 6, 6, 8, 10, 10, 12, 14, 14, 16, 18]
    assert torch.equal(evaluation(clip, None, 4)[0], evaluation(clip, None, 3)[0])


def test_a_clip_with_too_few_frames_is_said_once_or_refused(caplog):
    clip = Clip(encode_clip(grey_frames(3), "avi"), PIXELS)
    view = FramesView(CenterCrop((16, 16), 1.0), (16, 16), 5, 2)
    with caplog.at_level(logging.WARNING):
        assert greys(view(clip, None, 0)[0]) == greys(view(clip, None, 1)[0]) == [0, 1, 2, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "a clip has 3 frames, fewer than task.frames=5: its last frame is repeated, as in all such clips"
        " (task.short=refuse leaves them out)"
    ]
    strict = FramesView(CenterCrop((16, 16), 1.0), (16, 16), 5, 2, short="refuse")
    with pytest.raises(DecodeError, match=r"a clip has 3 frames, fewer than task\.frames=5"):
        strict(clip, None, 0)


def test_without_torchcodec_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match=r"torchcodec: pip install 'swinmim\[video\]'"):
        require_decoder()


def test_without_ffmpeg_it_is_named(monkeypatch):
    def broken(data):
        raise RuntimeError("Could not load libtorchcodec. Likely causes: ...")

    monkeypatch.setattr("torchcodec.decoders.VideoDecoder", broken)
    with pytest.raises(ConfigError, match=r"finds no FFmpeg .*\. Install it"):
        clips.require_decoder()


@pytest.mark.parametrize(("layers", "ordered"), [(0, False), (1, True), (2, True)])
def test_the_head_knows_the_order_of_the_frames_with_layers_only(layers, ordered):
    torch.manual_seed(0)
    head = TimeHead(16, 3, 4, 64, layers)
    nn.init.normal_(head.classify.weight)
    if layers:
        nn.init.normal_(head.time_TD)
    vectors = torch.randn(2, 4, 16)
    assert torch.allclose(head(vectors), head(vectors.flip(1)), atol=1e-5) != ordered


def test_logits_are_the_mean_over_the_clips():
    torch.manual_seed(0)
    head = TimeHead(16, 3, 4, 64, 2)
    vectors = torch.randn(2, 12, 16)
    each = torch.stack([head(vectors[:, start : start + 4]) for start in (0, 4, 8)])
    torch.testing.assert_close(head(vectors), each.mean(0))
