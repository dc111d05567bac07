"""Detection: torchvision's own losses, the COCO tools' own numbers, and places in the image as it was."""

import json

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_masks
from made_tasks import made_batch, made_encoder, made_module, made_task
from torch import nn
from torchvision.models.detection import FasterRCNN

import finetune.tasks.detect as detect
from data.codecs.targets import Boxes
from data.loading.views import Letterbox
from finetune.model import TaskModel
from finetune.tasks.registry import TASKS
from swinmim.errors import ConfigError, DataError

CLASSES = ("cat", "dog", "owl")
SMALL = {"fpn_channels": 8, "box_channels": 16, "proposals": 50, "sampled": 16, "anchor_scale": 2.0}


def small_task(*, has_masks=False, **changed):
    """On a set with masks or without."""
    return made_task("detect", CLASSES, facts={"masks": has_masks}, **SMALL | changed)


def boxes_of(rows, labels=None, crowd=None, size=(40, 50), masks=True):
    count = len(rows)
    held = np.zeros((count, *size), np.bool_)
    for mask, (x, y, w, h) in zip(held, rows, strict=True):
        mask[int(y) : int(y + h), int(x) : int(x + w)] = True
    return Boxes(
        np.array(rows, np.float32).reshape(-1, 4),
        np.array(labels or [0] * count, np.int64),
        np.array(crowd or [0] * count, np.bool_),
        held if masks else None,
    )


def batch_of(task, targets, sizes, canvas=(32, 32), valid=None):
    """What the loader gives for evaluation."""
    view = Letterbox(canvas)
    pairs = [view(np.zeros((*size, 3), np.uint8), target, 0) for target, size in zip(targets, sizes, strict=True)]
    return {
        "image": torch.stack([image for image, _ in pairs]),
        "target": [seen for _, seen in pairs],
        "size": torch.tensor(sizes),
        "valid": torch.ones(len(sizes), dtype=torch.bool) if valid is None else torch.tensor(valid),
    }


def answer(boxes, labels, scores, masks=None):
    """As the head gives it: on the canvas, labels from 1 on."""
    found = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64) + 1,
        "scores": torch.tensor(scores, dtype=torch.float32),
    }
    return found if masks is None else found | {"masks": masks}


@pytest.mark.parametrize("masks", [False, True])
def test_a_head_learns_from_images_with_and_without_objects_and_uses_every_weight(masks):
    """Each parameter has a gradient in every step: DDP waits for all."""
    torch.manual_seed(0)
    task = small_task(has_masks=masks)
    model = TaskModel(made_encoder(), task).train()
    view = task.views((32, 32))[0]
    targets = {
        "some": [boxes_of([(2, 3, 30, 20)]), boxes_of([]), boxes_of([(2, 3, 30, 20), (1, 1, 9, 9)], [1, 2], [0, 1])],
        "none": [boxes_of([])] * 3,
    }
    for held in targets.values():
        pairs = [view(np.full((40, 50, 3), 99, np.uint8), target, seed) for seed, target in enumerate(held)]
        batch = {"image": torch.stack([p[0] for p in pairs]), "target": [p[1] for p in pairs]}
        model.zero_grad()
        output = model(torch.randn(3, 3, 32, 32), *task.teach(batch))
        assert set(output) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"} | (
            {"loss_mask"} if masks else set()
        )
        loss = task.loss(output, batch)
        assert torch.isfinite(loss)
        assert float(loss.detach()) == pytest.approx(sum(float(part.detach()) for part in output.values()), rel=1e-6)
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_losses_are_torchvisions_own():
    """Of its whole model around the same pyramid, proposals and heads, from the same state of the generator."""
    torch.manual_seed(0)
    task = small_task()
    model = TaskModel(made_encoder(), task).train()
    head, images = model.head, torch.randn(2, 3, 32, 32)
    targets = [
        {"boxes": torch.tensor([[2.0, 3, 20, 30], [8, 8, 31, 20]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]

    class Backbone(nn.Module):
        out_channels = SMALL["fpn_channels"]

        def forward(self, images):
            maps = model.encoder.features(images)
            last = model.encoder.norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            first = [n(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for n, m in zip(head.norms, maps, strict=False)]
            return head.pyramid({str(n): level for n, level in enumerate([*first, last])})

    whole = FasterRCNN(
        Backbone(), 4, rpn_anchor_generator=head.rpn.anchor_generator, box_roi_pool=head.roi_heads.box_roi_pool,
        min_size=32, max_size=32, image_mean=[0.0] * 3, image_std=[1.0] * 3,
    )  # fmt: skip
    whole.rpn, whole.roi_heads = head.rpn, head.roi_heads
    whole.transform.torch_choice = lambda sides: sides[0]  # which draws a number even where there is no choice
    torch.manual_seed(1)
    expected = whole.train()(list(images), targets)
    torch.manual_seed(1)
    found = model(images, targets)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_coordinates_are_not_rounded_under_autocast():
    """bf16 has 8 bits: at 1000 pixels it tells no two places apart that are less than 4 apart."""
    torch.manual_seed(0)
    task = small_task(has_masks=True, least_score=0.0)
    model = TaskModel(made_encoder(), task).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found,) = model(images)
    assert {value.dtype for name, value in found.items() if name != "labels"} == {torch.float32}
    assert len(found["boxes"])
    assert not torch.equal(found["boxes"], found["boxes"].bfloat16().float())
    target = [boxes_of([(2, 3, 30, 20)])]
    batch = {
        "image": torch.zeros(1, 40, 50, 3),
        "target": [Letterbox((40, 50))(np.zeros((40, 50, 3), np.uint8), target[0], 0)[1]],
    }
    with torch.autocast("cpu", torch.bfloat16):
        output = model.train()(images, *task.teach(batch))
    assert {value.dtype for value in output.values()} == {torch.float32}


def test_a_network_on_the_meta_device_has_its_anchors():
    with torch.device("meta"):
        head = small_task().head(made_encoder())
    assert {p.device.type for p in head.parameters()} == {"meta"}
    assert {a.device.type for a in head.rpn.anchor_generator.cell_anchors} == {"cpu"}


def test_the_canvas_follows_the_encoder():
    task = small_task(least_score=0.0)
    model = TaskModel(made_encoder(), task).eval()
    model.encoder.resize(64)
    with torch.no_grad():
        (found,) = model(torch.randn(1, 3, 64, 64))
    assert found["boxes"].max() > 33
    assert found["boxes"].max() <= 64


def test_answers_lie_where_they_are_in_the_image_as_it_was():
    task = small_task(has_masks=True)
    sizes = [(40, 80), (90, 30)]  # shown as 16 x 32 and 32 x 11 of a canvas of 32
    batch = batch_of(task, [boxes_of([]), boxes_of([])], sizes)
    full = torch.ones(1, 1, 28, 28)
    output = [
        answer([[8, 4, 24, 30]], [2], [0.9], full),
        answer([[0, 0, 11, 16], [20, 2, 30, 9]], [0, 1], [0.8, 0.7], full.repeat(2, 1, 1, 1)),
    ]
    rows = task.predict(output, {"image": batch["image"], "size": batch["size"]})
    (first,), (second,) = (row["objects"] for row in rows)  # one in the padding is none
    assert first["class"] == "owl"
    assert first["score"] == pytest.approx(0.9)
    assert first["bbox"] == pytest.approx([20, 10, 40, 30])  # cut to the image
    assert first["mask"].shape == (40, 80)
    assert first["mask"].dtype == np.bool_
    assert first["mask"][12:38, 23:58].all()
    assert first["mask"].sum() == pytest.approx(40 * 30, rel=0.12)
    assert second["bbox"] == pytest.approx([0, 0, 30, 45])


def drawn_case(seed=0, count=12):
    """Objects and answers of images of different sizes, some right, some not; crowds among them."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(40, 90)), int(rng.integers(40, 90))) for _ in range(count)]
    targets, output = [], []
    for high, wide in sizes:
        boxes = [
            (rng.uniform(0, wide / 2), rng.uniform(0, high / 2), *rng.uniform(4, 20, 2))
            for _ in range(rng.integers(0, 5))
        ]
        labels = rng.integers(0, 2, len(boxes)).tolist()  # no owls
        crowd = (rng.random(len(boxes)) < 0.15).tolist()
        targets.append(boxes_of(boxes, labels, crowd, (high, wide)))
        scale = np.array([round(wide * 32 / max(high, wide)) / wide, round(high * 32 / max(high, wide)) / high] * 2)
        found, said = [], []
        for (x, y, w, h), label in zip(boxes, labels, strict=True):
            found.append((np.array([x, y, x + w, y + h]) + rng.normal(0, 1.2, 4)) * scale)
            said.append(label if rng.random() < 0.8 else 2)
        for _ in range(2):
            x, y = rng.uniform(0, 10, 2)
            found.append(np.array([x, y, x + 5, y + 7]))
            said.append(int(rng.integers(0, 3)))
        masks = torch.tensor(rng.random((len(found), 1, 28, 28)) < 0.9).float()
        output.append(answer(np.array(found), said, rng.random(len(found)), masks))
    return targets, sizes, output


def by_the_tools(task, batch, output, kind):
    """Straight from JSON, as published numbers are made. Returns AP and AP50."""
    images, marked, found = [], [], []

    def runs(mask):
        held = coco_masks.encode(np.asfortranarray(np.asarray(mask).astype(np.uint8)))
        return {"size": held["size"], "counts": held["counts"].decode()}

    for n, (row, seen, (high, wide)) in enumerate(
        zip(task.predict(output, batch), batch["target"], batch["size"].tolist(), strict=True), 1
    ):
        images.append({"id": n, "height": high, "width": wide})
        columns = (seen[key].tolist() for key in ("boxes", "labels", "crowd"))
        for (x1, y1, x2, y2), label, crowd, mask in zip(*columns, seen["masks"], strict=True):
            marked.append(
                {"id": len(marked) + 1, "image_id": n, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
                 "area": (x2 - x1) * (y2 - y1), "iscrowd": int(crowd), "segmentation": runs(mask)}
            )  # fmt: skip
        for each in row["objects"]:
            label = CLASSES.index(each["class"]) + 1
            found.append({"image_id": n, "category_id": label, "score": each["score"]})
            found[-1] |= {"bbox": each["bbox"]} if kind == "bbox" else {"segmentation": runs(each["mask"])}
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)]
    truth = COCO({"images": images, "annotations": marked, "categories": categories, "info": {}})
    judged = COCOeval_faster(truth, truth.loadRes(json.loads(json.dumps(found))), kind)
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    return [float(value) for value in judged.stats[:2]]


def counted(task, batch, output, ranks, per_batch=3):
    """Metrics of the ranks, put together as torchmetrics does it; the last batch of each is filled up with repeats."""
    parts = []
    each = -(-len(output) // ranks)
    for rank in range(ranks):
        metrics = task.metrics()
        own = list(range(rank, len(output), ranks))
        own += [own[0]] * (-(-each // per_batch) * per_batch - len(own))
        valid = [n < len(range(rank, len(output), ranks)) for n in range(len(own))]
        for start in range(0, len(own), per_batch):
            chosen = own[start : start + per_batch]
            part = {
                key: [batch["target"][n] for n in chosen] if key == "target" else batch[key][chosen] for key in batch
            }
            part["valid"] = torch.tensor(valid[start : start + per_batch])
            task.update(metrics, [output[n] for n in chosen], part)
        parts.append(metrics["map"])
    first = parts[0]
    for state in first._reductions:
        held = [getattr(part, state) for part in parts]
        assert len({len(one) for one in held}) == 1, "ranks gather list by list"
        setattr(first, state, [one for together in zip(*held, strict=True) for one in together])
    return {name: float(value) for name, value in first.compute().items()}


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_precision_is_that_of_the_coco_tools_on_any_number_of_ranks(ranks):
    task = small_task(has_masks=True)
    targets, sizes, output = drawn_case()
    batch = batch_of(task, targets, sizes)
    found = counted(task, batch, output, ranks)
    assert list(found) == ["map", "map50", "mask_map", "mask_map50"]
    boxes, masks = by_the_tools(task, batch, output, "bbox"), by_the_tools(task, batch, output, "segm")
    assert [found["map"], found["map50"]] == pytest.approx(boxes, abs=1e-6)
    assert [found["mask_map"], found["mask_map50"]] == pytest.approx(masks, abs=1e-6)
    assert 0.05 < found["map"] < found["map50"] < 0.95


def test_each_class_has_its_own_precision_and_their_mean_is_the_whole():
    task = small_task(has_masks=True)
    targets, sizes, output = drawn_case()
    batch = batch_of(task, targets, sizes)
    metrics = task.metrics() | task.detailed_metrics()
    task.update(metrics, output, batch)
    whole, rows = metrics["map"].compute(), task.details(metrics)["per_class"]
    assert [row["class"] for row in rows] == list(CLASSES)
    assert rows[2] == {"class": "owl", "map": None, "map50": None, "mask_map": None, "mask_map50": None}
    for name, value in whole.items():
        assert float(value) == pytest.approx(np.mean([rows[0][name], rows[1][name]]), abs=1e-6)
    assert rows[0]["map50"] != rows[1]["map50"]
    assert task.details(task.metrics()) == {}


def test_a_set_without_objects_has_no_precision(capsys, caplog):
    task = small_task()
    metrics = task.metrics()
    batch = batch_of(task, [boxes_of([], masks=False)], [(40, 50)])
    task.update(metrics, [answer([], [], [])], batch)
    assert {name: float(value) for name, value in metrics["map"].compute().items()} == {"map": 0, "map50": 0}
    targets, sizes, output = drawn_case()
    task.update(metrics, output, batch_of(task, targets, sizes))
    caplog.clear()
    metrics["map"].compute()
    assert (caplog.text, *capsys.readouterr()) == ("", "", "")


def test_goodness_is_score_times_overlap():
    task = small_task()
    batch = batch_of(
        task,
        [
            boxes_of([(0, 0, 10, 10)], [1]),
            boxes_of([(0, 0, 10, 10), (20, 20, 8, 8)], [1, 1]),
            boxes_of([]),
            boxes_of([]),
        ],
        [(32, 32)] * 4,
    )
    output = [
        answer([[0, 0, 10, 20], [0, 0, 10, 10]], [1, 0], [0.8, 0.9]),  # half of it; the other is of another class
        answer([[0, 0, 10, 10]], [1], [0.6]),
        answer([[0, 0, 10, 10]], [1], [0.75]),
        answer([], [], []),
    ]
    assert task.goodness(output, batch).tolist() == pytest.approx([0.4, 0.3, 0.25, 1.0])


def test_truth_and_pictures():
    task = small_task(has_masks=True)
    batch = batch_of(task, [boxes_of([(2, 3, 30, 20), (0, 0, 5, 5)], [2, 0], [0, 1])], [(40, 50)])
    (row,) = task.truth(batch)
    (marked,) = row["objects"]
    assert (marked["class"], marked["score"], marked["bbox"]) == ("owl", 1.0, [2, 3, 30, 20])
    grey = np.full((40, 50, 3), 100, np.uint8)
    picture = np.array(task.draw(grey, row))
    assert picture.shape == (40, 50, 3)
    assert not np.array_equal(picture[15, 15], [100, 100, 100])  # in the mask
    assert np.array_equal(picture[38, 45], [100, 100, 100])
    assert not np.array_equal(picture[20, 2], picture[20, 5])  # the edge of the box
    unsure = {"objects": [marked | {"score": 0.4}]}
    assert np.array_equal(np.array(task.draw(grey, unsure)), grey)


def test_masks_are_learnt_where_the_set_has_them():
    settings = small_task().settings
    survey = TASKS["detect"].survey
    assert survey(settings, iter([boxes_of([(1, 1, 5, 5)])])) == {"masks": True}
    assert survey(settings, iter([boxes_of([(1, 1, 5, 5)], masks=False)])) == {"masks": False}
    assert survey(settings, iter([])) == {"masks": False}
    assert small_task(has_masks=True).head(made_encoder()).roi_heads.has_mask()
    assert not made_task("detect", CLASSES, facts={"masks": True}, masks="none").masks


def test_a_set_with_masks_here_and_there_is_refused():
    task = small_task(has_masks=True)
    batch = batch_of(task, [boxes_of([(1, 1, 5, 5)], masks=False)], [(40, 50)])
    with pytest.raises(DataError, match=r"All images have masks or none; this set has both\. Add task\.masks=none"):
        task.teach(batch)
    answer = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    answer["masks"] = torch.zeros(0, 1, 28, 28)
    with pytest.raises(DataError, match=r"All images have masks or none"):  # of validation, which no survey sees
        task.update(task.metrics(), [answer], batch)
    nothing = batch_of(task, [boxes_of([], masks=False)], [(40, 50)])
    task.update(task.metrics(), [answer], nothing)
    assert task.teach(nothing)[0][0]["masks"].shape == (0, *nothing["image"].shape[1:3])


def test_without_the_library_the_command_is_named(monkeypatch):
    monkeypatch.setattr(detect, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"task=detect needs faster-coco-eval: pip install 'swinmim\[detect\]'"):
        small_task().metrics()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"jitter is \[least, most\], got \[2\.0, 1\.0\]"):
        small_task(jitter=[2.0, 1.0])


def test_verdict_and_description():
    task = small_task(has_masks=True)
    values = {"val/map": 0.25, "val/map50": 0.5, "val/mask_map": 0.125}
    assert task.verdict(values) == "validation mAP 25.00 %, mAP50 50.00 %, masks 12.50 %"
    assert task.describe() == {"kind": "detect", "classes": list(CLASSES), "masks": True}


@pytest.mark.slow
def test_it_learns_where_a_rectangle_is():
    """Whole way through the module, without Lightning: a few steps fit four images."""
    torch.manual_seed(0)
    task = small_task(jitter=[1.0, 1.0], flip=False)
    module = made_module(task)
    rows = [(4, 4, 16, 12), (12, 2, 18, 20), (2, 16, 24, 14), (16, 16, 14, 14)]
    view, pairs = task.views((32, 32))[0], []
    for n, (x, y, w, h) in enumerate(rows):
        pixels = np.full((32, 32, 3), 30, np.uint8)
        pixels[y : y + h, x : x + w, n % 3] = 250
        pairs.append(view(pixels, boxes_of([(x, y, w, h)], [n % 3], size=(32, 32)), 0))
    batch = {
        "image": torch.stack([p[0] for p in pairs]), "target": [p[1] for p in pairs],
        "size": torch.tensor([[32, 32]] * 4), "valid": torch.ones(4, dtype=torch.bool),
    }  # fmt: skip
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        loss = module.training_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    module.eval()
    with torch.no_grad():
        output = task.infer(module.network, module.prepare(batch))
    metrics = task.metrics()
    task.update(metrics, output, batch)
    assert float(metrics["map"].compute()["map50"]) > 0.5


def test_batches_of_the_shared_tests_have_objects():
    task = small_task()
    batch = made_batch(task, task.views((32, 32))[1])
    assert [len(seen["boxes"]) for seen in batch["target"]] == [2] * 4
