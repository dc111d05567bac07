import pytest
import torch

from swinmim.models.errors import ModelError
from swinmim.models.windows import (
    StageWindow,
    as_pair,
    merge_windows,
    partition_windows,
    shift_regions,
    stage_windows,
)

FAMILY = {"patch_size": 4, "num_stages": 4, "window_ratio": 16}


def test_windows_of_the_family_at_192():
    stages = stage_windows(192, **FAMILY)
    assert [s.grid for s in stages] == [(48, 48), (24, 24), (12, 12), (6, 6)]
    assert [s.window for s in stages] == [(12, 12), (12, 12), (12, 12), (6, 6)]
    assert [s.shift for s in stages] == [(6, 6), (6, 6), (0, 0), (0, 0)]
    assert [s.is_global for s in stages] == [False, False, True, True]


@pytest.mark.parametrize(("resolution", "window"), [(224, 14), (256, 16), (384, 24), (640, 40)])
def test_window_follows_resolution(resolution, window):
    stages = stage_windows(resolution, **FAMILY)
    assert [s.window[0] for s in stages] == [window, window, window, window // 2]


def test_small_image_model_has_its_own_ratio():
    stages = stage_windows(32, patch_size=4, num_stages=2, window_ratio=8)
    assert [(s.grid[0], s.window[0], s.shift[0]) for s in stages] == [(8, 4, 2), (4, 4, 0)]


def test_axes_are_clamped_apart():
    last = stage_windows((64, 128), **FAMILY, window=4)[2]
    assert last == StageWindow(grid=(4, 8), window=(4, 4), shift=(0, 2))


def test_an_oversized_window_is_global_attention():
    assert all(s.is_global for s in stage_windows(64, **FAMILY, window=999))


def test_a_misfit_shows_the_stages():
    with pytest.raises(ModelError) as error:
        stage_windows((192, 250), **FAMILY)
    assert [line.split() for line in str(error.value).splitlines()[2:7]] == [
        ["stage", "grid", "window", "shift"],
        ["1", "48x62.5", "12x15.62", "-"],
        ["2", "24x31.25", "12x15.62", "-"],
        ["3", "12x15.62", "12x15.62", "-"],
        ["4", "6x7.812", "6x7.812", "-"],
    ]


@pytest.mark.parametrize(
    ("resolution", "window", "nearest"),
    [
        (200, None, "192 and 224."),
        (20, None, "32."),
        ((192, 250), None, "192x224 and 192x256."),
        (192, 8, "128 and 256."),
        (240, 8, "128 and 256."),
    ],
)
def test_misfit_names_rule_and_nearest(resolution, window, nearest):
    with pytest.raises(ValueError, match="does not fit") as error:
        stage_windows(resolution, **FAMILY, window=window)
    message = str(error.value)
    assert f"Nearest legal resolutions: {nearest}" in message
    assert "stage     grid      window" in message


def test_nearest_are_legal():
    legal = set()
    for resolution in range(32, 300, 4):
        try:
            stage_windows(resolution, **FAMILY)
            legal.add(resolution)
        except ModelError as error:
            below, above = str(error).rsplit("resolutions: ", 1)[1].rstrip(".").split(" and ")
            assert int(below) < resolution < int(above)
            stage_windows(int(below), **FAMILY)
            stage_windows(int(above), **FAMILY)
    assert {64, 192, 256} <= legal < set(range(32, 300, 4))


def test_a_ratio_that_never_fits_says_so():
    with pytest.raises(ValueError, match="none with window ratio 24"):
        stage_windows(192, patch_size=4, num_stages=4, window_ratio=24)


def test_wrong_sizes():
    for wrong in (0, (1, 2, 3), "192", 192.0):
        with pytest.raises(ValueError, match=r"resolution is at least|one integer or"):
            stage_windows(wrong, **FAMILY)
    with pytest.raises(ValueError, match="window is at least 1"):
        stage_windows(192, **FAMILY, window=0)
    assert as_pair([3, 4]) == (3, 4)


def test_partition_and_back():
    tokens = torch.arange(2 * 6 * 8 * 3).view(2, 6, 8, 3)
    windows = partition_windows(tokens, (3, 4))
    assert windows.shape == (2 * 4, 12, 3)
    assert torch.equal(windows[1].view(3, 4, 3), tokens[0, :3, 4:])
    assert torch.equal(merge_windows(windows, (3, 4), (6, 8)), tokens)


def test_regions_part_what_the_roll_brought_together():
    """Two tokens of a shifted window share a region exactly if rolling moved them by the same amount."""
    stage = StageWindow(grid=(6, 8), window=(3, 4), shift=(1, 2))
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    moved = torch.stack((rows - rows.roll((-1, -2), (0, 1)), columns - columns.roll((-1, -2), (0, 1))), -1)
    moved_wN2 = partition_windows(moved[None], stage.window)
    same = (moved_wN2[:, :, None] == moved_wN2[:, None]).all(-1)
    regions = shift_regions(stage)
    assert torch.equal(regions[:, :, None] == regions[:, None], same)
