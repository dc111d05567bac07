"""Targets on their way from the tar to the batch; damage of them, and of masks that are not their image's."""

import json
import logging

import numpy as np
import pytest
import torch
from made_loaders import SMALL, shard_data

from data.codecs.decode import decode
from data.codecs.targets import Boxes, encode_target
from data.loading.batch import LoaderSettings
from data.loading.dataset import BatchDataset
from data.loading.sampler import Place
from data.loading.views import RandomCrop
from swinmim.errors import DataError


class WithTargets:
    """A set of which each sample has a target beside it."""

    def __init__(self, shards, kind, classes, member):
        self.shards, self.target, self.classes, self.member = shards, kind, classes, member

    def __getattr__(self, name):
        return getattr(self.shards, name)

    def __len__(self):
        return len(self.shards)

    def read(self, index):
        return self.shards.read(index)._replace(target=self.member(index))


def places(*samples):
    return [Place(0, n, sample) for n, sample in enumerate(samples)]


def read(shards, *samples, view=None):
    dataset = BatchDataset(
        shards, np.arange(len(shards)), view or RandomCrop((16, 16)), LoaderSettings(**SMALL), "train"
    )
    return dataset.__getitems__(places(*samples))


def test_a_batch_of_native_images_is_a_list(shards):
    class Native:
        native = True

        def __call__(self, image, target, seed):
            return torch.from_numpy(image), target

    batch = read(shards, 0, 3, 5, view=Native())
    decoded = [decode(shards.read(n).data) for n in (0, 3, 5)]
    assert [image.tolist() for image in batch["image"]] == [image.tolist() for image in decoded]
    assert batch["size"].tolist() == [list(image.shape[:2]) for image in decoded]
    assert read(shards, 0, 3, 5)["size"].tolist() == batch["size"].tolist()


def labels_of(index):
    return json.dumps(sorted({index % 3, 2})).encode()


def test_a_set_without_targets_gives_batches_without(shards):
    assert "target" not in read(shards, 0, 1)


def test_targets_that_nothing_needs_are_not_decoded(shards):
    targets = WithTargets(shards, "boxes", tuple("abcd"), lambda _: b"damage")
    settings = LoaderSettings(**SMALL, targets=False)
    batch = BatchDataset(targets, np.arange(len(shards)), RandomCrop((16, 16)), settings, "train").__getitems__(
        places(0)
    )
    assert "target" not in batch
    assert not batch["substituted"].any()


def test_labels_and_values_are_one_tensor_that_no_crop_changes(shards):
    batch = read(
        WithTargets(shards, "labels", ("a", "b", "c"), labels_of),
        0,
        1,
        2,
        view=RandomCrop((16, 16), randaug="rand-m9-mstd0.5-inc1"),
    )
    assert batch["target"].dtype == torch.bool
    assert batch["target"].tolist() == [[True, False, True], [False, True, True], [False, False, True]]
    batch = read(WithTargets(shards, "value", ("x", "y"), lambda index: f"[{index}, 0.5]".encode()), 4, 7)
    assert batch["target"].tolist() == [[4, 0.5], [7, 0.5]]


def test_masks_are_one_tensor_and_boxes_a_list(shards):
    height, width = size(shards)
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 3
    batch = read(WithTargets(shards, "mask", tuple("abcd"), lambda _: encode_target("mask", mask, 4)), 0, 1)
    assert batch["target"].shape == (2, 16, 16)
    assert batch["target"].dtype == torch.uint8
    assert set(batch["target"].unique().tolist()) == {0, 3}

    def boxes(index):
        rows = np.array([[0, 0, width, height]] * (index + 1), np.float32)
        labels = np.full(index + 1, index)
        return encode_target("boxes", Boxes(rows, labels, np.zeros(index + 1, np.bool_)), 4)

    batch = read(WithTargets(shards, "boxes", tuple("abcd"), boxes), 0, 2)
    assert [found["boxes"].tolist() for found in batch["target"]] == [[[0, 0, 16, 16]] * n for n in (1, 3)]
    assert [found["labels"].tolist() for found in batch["target"]] == [[0], [2, 2, 2]]


def size(shards):
    return decode(shards.read(0).data).shape[:2]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_targets_travel_through_the_loader(shards, workers):
    targets = WithTargets(shards, "labels", ("a", "b", "c"), labels_of)
    for batch in shard_data(targets, num_workers=workers).train_dataloader():
        expected = [[index % 3 == 0, index % 3 == 1, True] for index in batch["index"].tolist()]
        assert batch["target"].tolist() == expected


@pytest.mark.parametrize("damage", [b"", b"[1", b"[9]", b"[1.5]"])
def test_a_damaged_target_is_a_damaged_sample(shards, caplog, damage):
    targets = WithTargets(shards, "labels", ("a", "b", "c"), lambda index: damage if index == 3 else labels_of(index))
    with caplog.at_level(logging.WARNING):
        batch = read(targets, 2, 3, 4)
    assert batch["substituted"].tolist() == [False, True, False]
    found = int(batch["index"][1])
    assert found != 3
    assert batch["target"][1].tolist() == [found % 3 == 0, found % 3 == 1, True]
    assert "cannot decode train-000000.tar: 000000003.jpg: " in caplog.text
    assert "another image takes its place" in caplog.text


def test_a_mask_of_another_size_is_a_damaged_sample(shards, caplog):
    height, width = size(shards)
    sizes = {3: (width, height)}
    targets = WithTargets(
        shards, "mask", ("a",), lambda n: encode_target("mask", np.zeros(sizes.get(n, (height, width)), np.uint8), 1)
    )
    assert read(targets, 3)["substituted"].tolist() == [True]
    assert f"its mask has {height}x{width} pixels, the image {width}x{height}" in caplog.text


@pytest.mark.parametrize(
    ("kind", "shape"), [("labels", (2, 4)), ("value", (2, 4)), ("mask", (2, 16, 16)), ("boxes", None)]
)
def test_the_batch_before_the_end_has_its_shape_also_where_all_is_damaged(shards, kind, shape):
    targets = WithTargets(shards, kind, tuple("abcd"), lambda _: b"damage")
    batch = read(targets, 0, 1)
    assert batch["index"].tolist() == [-1, -1]
    assert not batch["image"].any()
    if shape is None:
        assert [found["boxes"].shape for found in batch["target"]] == [(0, 4)] * 2
    else:
        assert batch["target"].shape == shape
    with pytest.raises(DataError, match="several substitutes in a row were damaged too"):
        next(iter(shard_data(targets).train_dataloader()))
