"""The pictures: what stands where, and how channels become colours."""

import numpy as np
import pytest
import torch

from pretrain.reconstructions import draw_columns, to_rgb
from swinmim.errors import ConfigError


def test_picture_has_a_tile_for_each_image_and_column():
    columns = {"input": torch.zeros(2, 3, 32, 48), "masked": torch.ones(2, 3, 32, 48)}
    picture = np.asarray(draw_columns(columns))
    assert picture.shape == (16 + 2 * (64 + 4) + 4, 2 * (96 + 4) + 4, 3)
    assert (picture[20:80, 10:90] == 0).all()
    assert (picture[20:80, 110:190] == 255).all()


def test_a_caption_stands_above_the_titles_and_breaks_where_the_picture_ends():
    columns = {"input": torch.zeros(1, 3, 96, 96), "masked": torch.zeros(1, 3, 96, 96)}
    plain, told = draw_columns(columns), draw_columns(columns, "target raw\nstep 4: val/recon_loss 0.7759, " + "x" * 9)
    assert told.width == plain.width == 204
    assert told.height == plain.height + 3 * 16  # the second line is longer than 39 letters
    assert np.asarray(plain.crop((0, 0, 204, 120))).tolist() == np.asarray(told.crop((0, 48, 204, 168))).tolist()
    assert (np.asarray(told)[:48].min(axis=(1, 2)) < 100).any()


@pytest.mark.parametrize(("channels", "source"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_any_number_of_channels_can_be_shown(channels, source):
    images = torch.rand(1, channels, 4, 4)
    assert torch.equal(to_rgb(images), images[:, source])


def test_three_bands_can_be_chosen():
    images = torch.rand(2, 5, 4, 4)
    assert torch.equal(to_rgb(images, (4, 0, 2)), images[:, [4, 0, 2]])
    with pytest.raises(ConfigError, match="channels 0 to 4"):
        to_rgb(images, (0, 1, 5))
