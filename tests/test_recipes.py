"""Recipes are what was published, number by number, and their headers say what differs and how to undo it.

Sources of the tables: ST github.com/microsoft/Swin-Transformer (f82860b), SM github.com/microsoft/SimMIM (d3e29bc),
P-V2 arXiv 2111.09883, MODELHUB the MODELHUB.md of ST. Rates in ST and SM are for a batch of 512.
"""

import re
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from data.order.subsets import split
from finetune.config import FinetuneConfig
from finetune.tasks.classify import ClassifyConfig
from finetune.tasks.detect import DetectConfig
from finetune.tasks.segment import SegmentConfig
from pretrain.config import PretrainConfig
from swinmim import door
from swinmim.composition import check
from swinmim.config import CONF_DIR
from swinmim.models.swinv2 import create_encoder
from swinmim.optim.schedules import lr_factor, peak_lr, warmup_steps

EXPERIMENTS = {path.stem: path for path in sorted((CONF_DIR / "experiment").glob("*.yaml"))}
PUBLISHED_ONES = [name for name in EXPERIMENTS if name.startswith("swinv2")]
WORDS = ("Paper", "Command", "Hardware", "Hours", "Expected", "Verified", "Deviations")
IMAGENET = 1_281_167
IMAGENET_22K = 14_197_122
EXTENDED_22K = 70_000_000
COCO = 118_287
ADE20K = 20_210
RANDAUG = "rand-m9-mstd0.5-inc1"  # ST config.py, AUG.AUTO_AUGMENT


@dataclass(frozen=True, kw_only=True)
class Published:
    """One configuration; rates are those of its batch."""

    source: str
    images: int = IMAGENET
    resolution: int
    windows: tuple[int, ...] | None = None
    epochs: int
    steps: int
    batch: int
    warmup: int
    """Steps."""
    peak: float
    first: float
    last: float
    milestone: int | None = None
    """Step, after which the rate is a tenth."""
    weight_decay: float
    clip: float = 5.0
    betas: tuple[float, float] = (0.9, 0.999)  # ST config.py
    layer_decay: float = 1.0
    drop_path: float
    crop: tuple[str, float] | None = None


SIMMIM = {  # batch 2048 (SM README), clip 5 (ST config.py), warm-up 10 epochs, x0.1 at 700 of 800 (ST configs/simmim)
    "resolution": 192, "windows": (12, 12, 12, 6), "epochs": 800, "steps": 500_000, "batch": 2048, "warmup": 6250,
    "peak": 4e-4, "first": 2e-6, "last": 4e-5, "milestone": 437_500, "weight_decay": 0.05, "drop_path": 0.1,
}  # fmt: skip
SIMMIM_FT = {  # ST configs/simmim, finetune 100ep
    "resolution": 224, "windows": (14, 14, 14, 7), "epochs": 100, "steps": 62_500, "batch": 2048, "warmup": 12_500,
    "peak": 5e-3, "first": 1e-6, "last": 1e-6, "weight_decay": 0.05, "crop": ("center", 0.875),
}  # fmt: skip
FROM_22K = {  # ST configs/swinv2 *_22kto1k_finetune, data/build.py
    "epochs": 30, "steps": 37_530, "batch": 1024, "warmup": 6255, "peak": 4e-5, "first": 4e-8, "last": 4e-7,
    "weight_decay": 1e-8, "drop_path": 0.2,
}  # fmt: skip
TO_256 = {"resolution": 256, "windows": (16, 16, 16, 8), "crop": ("center", 0.875), **FROM_22K}
TO_384 = {"resolution": 384, "windows": (24, 24, 24, 12), "crop": ("squash", 1.0), **FROM_22K}  # TEST.CROP False
INTERMEDIATE = {  # ST configs/swinv2 *_22k; layer decay: P-V2 appendix, stage 2 of G
    "images": IMAGENET_22K, "resolution": 192, "windows": (12, 12, 12, 6), "epochs": 90, "steps": 311_940,
    "batch": 4096, "warmup": 17_330, "peak": 1e-3, "first": 1e-6, "last": 1e-5, "weight_decay": 0.1, "drop_path": 0.2,
    "layer_decay": 0.87, "crop": ("center", 0.875),
}  # fmt: skip

PUBLISHED = {
    **{f"swinv2_{size}_mim": Published(source="ST configs/simmim swinv2_base", **SIMMIM) for size in "tsblh"},
    "swinv2_b_ft_224": Published(source="ST configs/simmim swinv2_base", layer_decay=0.75, drop_path=0.1, **SIMMIM_FT),
    "swinv2_l_ft_224": Published(source="SM configs swin_large", layer_decay=0.7, drop_path=0.2, **SIMMIM_FT),
    **{f"swinv2_{size}_ft_256": Published(source=f"ST configs/swinv2 {size} 12to16", **TO_256) for size in "bl"},
    **{f"swinv2_{size}_ft_384": Published(source=f"ST configs/swinv2 {size} 12to24", **TO_384) for size in "bl"},
    "swinv2_t_detect": Published(
        source="Swin 2103.14030, mask_rcnn_swin_tiny 3x", images=COCO, resolution=1024, windows=(32, 32, 32, 32),
        epochs=36, steps=266_112, batch=16, warmup=500, peak=1e-4, first=1e-7, last=1e-6,
        weight_decay=0.05, drop_path=0.2,
    ),
    "swinv2_b_detect": Published(
        source="ViTDet 2203.16527, cascade_mask_rcnn_swin_b", images=COCO, resolution=1024, windows=(32, 32, 32, 32),
        epochs=50, steps=92_400, batch=64, warmup=251, peak=4e-5, first=4e-8, last=4e-7,
        weight_decay=0.05, drop_path=0.4,
    ),
    **{
        f"swinv2_{size}_segment": Published(
            source="UPerNet configs of Swin", images=ADE20K, resolution=resolution, windows=windows, epochs=127,
            steps=160_401, batch=16, warmup=1504, peak=6e-5, first=0.0, last=0.0, weight_decay=0.01, drop_path=0.3,
        )
        for size, resolution, windows in [
            ("t", 512, (32, 32, 32, 16)), ("b", 512, (32, 32, 32, 16)), ("l", 640, (40, 40, 40, 20))
        ]
    },
    **{f"swinv2_{s}_intermediate": Published(source=f"ST configs/swinv2 {s} 22k", **INTERMEDIATE) for s in "bl"},
    "swinv2_g_intermediate": Published(
        source="P-V2 appendix", images=EXTENDED_22K, resolution=192, windows=(12, 12, 12, 6), epochs=30, steps=227_850,
        batch=9216, warmup=20_000, peak=1.4e-3, first=0.0, last=0.0, weight_decay=0.1, clip=100.0, drop_path=0.3,
        layer_decay=0.87,
    ),
    "swinv2_g_mim": Published(
        source="P-V2 section 3.6 and appendix", images=EXTENDED_22K, resolution=192, epochs=20, steps=151_900,
        batch=9216, warmup=30_000, peak=1.4e-3, first=0.0, last=0.0, weight_decay=0.1, clip=100.0, drop_path=0.0,
    ),
    "swinv2_g_ft_640": Published(
        source="P-V2 appendix", resolution=640, epochs=10, steps=22_240, batch=576, warmup=4448, peak=2.1e-5, first=0.0,
        last=0.0, weight_decay=0.1, clip=100.0, drop_path=0.5,
    ),
}  # fmt: skip

SIMMIM_HEADER = {  # in the headers of all sizes
    "800": "ep, ST configs/simmim",
    "2": "% held out, conf/data",
    "256": "px of packed copies, conf/data",
    "490,400": "steps, derived below",
    "500,000": "steps, derived below",
}
HUB = "MODELHUB, ImageNet-1K 100 %, 500k steps"
GPUS = {"8": "GPUs, ours", "16": "GPUs, SM README"}
FROM_22K_HEADER = GPUS | {
    "192": "px, ST configs/swinv2",
    "10": "% held out, conf/finetune.yaml",
    "22": "K-supervised, MODELHUB",
}
DETECT_HEADER = {
    **dict.fromkeys(("2111.09883", "1", "32"), "windows on COCO: P-V2 table 1; K labels, of the published one"),
    "5": "clipping, ours",
}
SEGMENT_HEADER = {"1807.10221": "UPerNet", "8": "GPUs, configs", "150": "classes of ADE20K"}
INTERMEDIATE_HEADER = {
    **dict.fromkeys(("192", "12", "90"), "px, window, epochs: ST configs/swinv2"),
    **dict.fromkeys(("0.87", "30"), "layer decay and epochs of G: P-V2 appendix"),
    "16": "GPUs, ours",
    "384": "px, ST configs/swinv2",
    "2": "% held out, the recipe's own",
}
NUMBERS = {
    "swinv2_t_detect": DETECT_HEADER
    | {
        **dict.fromkeys(("2103.14030", "4.2", "3", "46.0", "41.6"), "Swin, its section and README of its detection"),
        **dict.fromkeys(("480", "800"), "px, configs of Swin"),
        "1024": "px, ViTDet",
        "8": "GPUs, ours",
    },
    "swinv2_b_detect": DETECT_HEADER
    | {
        "21": "K labels, of the published one",
        **dict.fromkeys(("2203.16527", "64", "53.9", "46.2"), "ViTDet, README"),
        **dict.fromkeys(("118,287", "92,400", "92,187"), "images and steps, derived below"),
    },
    "swinv2_b_intermediate": INTERMEDIATE_HEADER | {"87.1": "MODELHUB"},
    "swinv2_l_intermediate": INTERMEDIATE_HEADER | {"87.6": "MODELHUB"},
    "swinv2_g_intermediate": {
        **dict.fromkeys(("1", "2"), "stages of P-V2, table 2, % held out"),
        **dict.fromkeys(("70", "20,000", "640"), "M images, steps of warm-up, px: P-V2 appendix"),
        **dict.fromkeys(("0", "0.1", "12", "0.875"), "choices"),
        "2111.09883": "P-V2",
        "80": "GB of a GPU, ours",
        "90.17": "P-V2 table 2",
    },
    "swinv2_t_mim": SIMMIM_HEADER | {"27.6": "M, measured", "80": "GB, ours"},
    "swinv2_s_mim": SIMMIM_HEADER | {"49.0": "M, MODELHUB", "80": "GB, ours", "500k": HUB, "0.4641": HUB, "84.08": HUB},
    "swinv2_b_mim": SIMMIM_HEADER
    | {"86.9": "M, measured", "16": "GPUs, SM README", "500k": HUB, "0.4588": HUB, "85.04": HUB},
    "swinv2_l_mim": SIMMIM_HEADER
    | {"195.2": "M, measured", "8": "GPUs, ours", "500k": HUB, "0.4507": HUB, "85.91": HUB},
    "swinv2_h_mim": SIMMIM_HEADER
    | {
        "655.2": "M, measured",
        "8": "GPUs, ours",
        "500k": HUB,
        "0.4416": HUB,
        "86.34": HUB,
        "32": "head width, a doubt",
    },
    "swinv2_g_mim": {
        **dict.fromkeys(("2", "42", "4"), "depths, P-V2 section 3.6"),
        **dict.fromkeys(("70", "30,000"), "M images, steps of warm-up: P-V2 appendix"),
        **dict.fromkeys(("148,860", "151,900"), "steps, derived below"),
        **dict.fromkeys(("0", "32", "12", "0.6"), "choices"),
        **dict.fromkeys(("8", "80", "141", "18"), "GPUs and their GB, ours: benchmarks/plan_memory.py"),
        "2111.09883": "P-V2",
        "1": "stage, P-V2 appendix",
        "2998": "M, measured",
        "3.6": "P-V2, section of the configuration",
        "48": "GB, P-V2 section 3.5",
        "90.17": "P-V2 table 2",
        "640": "px, P-V2 appendix",
        "256": "px of packed copies",
    },
    "swinv2_b_ft_224": GPUS
    | {"100": "ep, ST configs/simmim", "84": HUB, "85": HUB, "10": "% held out, conf/finetune.yaml"},
    "swinv2_l_ft_224": GPUS
    | {"224": "px, SM configs", "14": "window, SM configs", "85.4": "SM README", "1": "version", "10": "% held out"},
    "swinv2_b_ft_256": FROM_22K_HEADER | {"256": "px", "86.2": "MODELHUB"},
    "swinv2_b_ft_384": FROM_22K_HEADER | {"384": "px", "87.1": "MODELHUB"},
    "swinv2_l_ft_256": FROM_22K_HEADER | {"256": "px", "86.9": "MODELHUB"},
    "swinv2_l_ft_384": FROM_22K_HEADER | {"384": "px", "87.6": "MODELHUB"},
    "swinv2_t_segment": SEGMENT_HEADER | {"512": "px, configs", "44.51": "README of the configs"},
    "swinv2_b_segment": SEGMENT_HEADER | {"512": "px, configs", "48.13": "README of the configs"},
    "swinv2_l_segment": SEGMENT_HEADER | {"640": "px, 2103.14030", "53.5": "2103.14030 table 3", "2103.14030": "Swin"},
    "swinv2_g_ft_640": {
        **dict.fromkeys(("70", "640"), "M images, px: P-V2 appendix"),
        **dict.fromkeys(("0", "0.1", "1", "40", "0.875"), "choices"),
        "2111.09883": "P-V2",
        "80": "GB of a GPU, ours",
        "90.17": "P-V2 table 2",
        "2": "table of P-V2",
        "10": "% held out",
    },
}
"""Experiment -> each number of its header, and where it comes from."""


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")


def header(name: str) -> str:
    lines = EXPERIMENTS[name].read_text().splitlines()
    return "\n".join(line for line in lines[1:] if line.startswith("#"))


@cache
def composed(name: str, *overrides: str) -> PretrainConfig | FinetuneConfig:
    if "python -m finetune" in header(name):
        model = f"model=swinv2_{name.split('_')[1]}" if name in PUBLISHED else "model=swinv2_demo"
        return check("finetune", FinetuneConfig, [f"experiment={name}", "data.path=x", "ckpt=null", model, *overrides])
    return check("pretrain", PretrainConfig, [f"experiment={name}", "data.path=x", *overrides])


def steps_of(config: PretrainConfig | FinetuneConfig, images: int) -> int:
    held_out = 0.0 if isinstance(config, FinetuneConfig) else config.data.val_ratio  # ImageNet has a val/ folder
    train = images if not held_out else images - round(images * held_out)
    return train // config.global_batch_size * config.trainer.max_epochs


def test_every_recipe_has_its_published_numbers():
    assert set(PUBLISHED) == set(NUMBERS) == set(PUBLISHED_ONES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_header_has_its_lines_in_their_order(name):
    lines = EXPERIMENTS[name].read_text().splitlines()
    assert lines[0] == "# @package _global_"
    found = [line[2:].partition(":")[0] for line in lines[1:] if re.match(r"# [A-Z]\w+:", line)]
    assert tuple(found[: len(WORDS)]) == WORDS
    assert set(found[len(WORDS) :]) <= {"Note", "Doubt", "Decay", "Choices"}


@pytest.mark.parametrize("name", PUBLISHED_ONES)
def test_every_number_of_a_header_has_a_source(name):
    text = re.sub(r"# Command:.*|\S+=\S+", "", header(name))
    found = set(re.findall(r"(?<![\w.-])\d+(?:,\d{3})*(?:\.\d+)?k?", text))
    assert found == set(NUMBERS[name])


@pytest.mark.parametrize("name", PUBLISHED_ONES)
def test_recipe_is_the_published_one(name):
    """As published: on the published set, with the overrides that the header gives."""
    published, config = PUBLISHED[name], composed(name)
    if isinstance(config, PretrainConfig):
        config = composed(name, "data.val_ratio=0", "data.pack_resize=null")
        assert "data.val_ratio=0 data.pack_resize=null" in header(name)
        assert config.mim.target == "local_norm"
        assert (config.mim.mask_unit, config.mim.mask_ratio) == (32, 0.6)  # ST data/data_simmim_pt.py
        assert (config.augment.scale, config.augment.flip) == ((0.67, 1.0), True)
        assert config.augment.ratio == pytest.approx((3 / 4, 4 / 3))
        assert config.optim.decay_attention  # ST optimizer.py: the keywords that would spare them never match
    elif isinstance(config.task, DetectConfig):
        boxes = config.task
        last = {"t": (27 / 36, 33 / 36), "b": (163889 / 184375, 177546 / 184375)}[name.split("_")[1]]
        assert config.schedule.milestone_shares == pytest.approx(last, abs=1e-6)
        assert (boxes.masks, boxes.jitter, boxes.flip) == ("auto", (0.1, 2.0), True)  # coco_loader_lsj.py, detectron2
        assert (boxes.anchor_scale, boxes.fpn_channels, boxes.box_channels) == (8, 256, 1024)
        assert (boxes.proposals, boxes.sampled, boxes.least_score, boxes.most_objects) == (1000, 512, 0.05, 100)
    elif isinstance(config.task, SegmentConfig):
        pixels = config.task
        assert (pixels.decoder, pixels.width, pixels.scale, pixels.max_share) == ("upernet", 512, (0.5, 2.0), 0.75)
        assert (pixels.flip, pixels.jitter, pixels.evaluation, pixels.overlap) == (
            True,
            0.5,
            "slide",
            pytest.approx(1 / 3),
        )
        assert (pixels.class_weights, pixels.dice) == ("none", 0.0)
    else:
        task = config.task
        assert isinstance(task, ClassifyConfig)
        assert (task.randaug, task.crop_scale, task.flip) == (RANDAUG, (0.08, 1.0), True)
        assert (task.erasing, task.label_smoothing) == (0.25, 0.1)  # ST config.py
        assert (task.mixup, task.cutmix) == ((0.8, 1.0) if published.crop else (0.0, 0.0))
        assert config.data.pack_resize is None
        # of a set without val/; ImageNet has one
        assert config.data.val_ratio == (0.02 if name.endswith("_intermediate") else 0.1)
        assert not config.optim.decay_attention
        if published.crop:
            assert (task.crop_mode, task.crop_ratio) == published.crop
    assert config.resolution == published.resolution
    assert config.trainer.max_epochs == published.epochs
    assert config.global_batch_size == published.batch
    assert config.drop_path == published.drop_path
    optim = config.optim
    assert (optim.weight_decay, optim.clip_grad_norm) == (published.weight_decay, published.clip)
    assert (optim.betas, optim.eps, optim.layer_decay) == (published.betas, 1e-8, published.layer_decay)

    per_epoch = published.images // published.batch
    total = steps_of(config, published.images)
    assert total == published.steps
    assert warmup_steps(config.schedule, total, per_epoch) == published.warmup
    peak = peak_lr(optim.base_lr, config.global_batch_size)
    assert peak == pytest.approx(published.peak, rel=1e-9)
    factor = lr_factor(config.schedule, base_lr=optim.base_lr, total_steps=total, steps_per_epoch=per_epoch)
    rates = {step: peak * factor(step) for step in (0, published.warmup, total - 1, total)}
    assert rates[0] == pytest.approx(published.first, abs=1e-15)
    assert rates[published.warmup] == pytest.approx(published.peak, rel=1e-9)
    assert rates[total] == pytest.approx(published.last, abs=1e-15)
    if published.milestone:
        assert peak * factor(published.milestone - 1) == pytest.approx(published.peak, rel=1e-9)
        assert peak * factor(published.milestone) == pytest.approx(published.last, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in PUBLISHED_ONES if PUBLISHED[name].windows])
def test_windows_are_the_published_ones(name):
    config = composed(name)
    with torch.device("meta"):
        encoder = create_encoder(f"swinv2_{name.split('_')[1]}", resolution=config.resolution, window=config.window)
    assert tuple(stage.window[0] for stage in encoder.stages) == PUBLISHED[name].windows


@pytest.mark.parametrize("name", [name for name in PUBLISHED_ONES if name.endswith("_mim")])
def test_deviating_steps_are_told_with_both_numbers(name):
    published, config = PUBLISHED[name], composed(name)
    deviating = steps_of(config, published.images)
    assert deviating != published.steps
    assert f"{deviating:,} steps of {published.steps:,}" in " ".join(header(name).replace("#", "").split())
    assert config.data.pack_resize == 256
    train, held_out = split(IMAGENET, 0.02, seed=0)
    assert len(train) == IMAGENET - round(IMAGENET * 0.02)
    assert len(held_out) == round(IMAGENET * 0.02)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_overrides_of_a_header_compose(name):
    overrides = re.findall(r"([\w.]+=[\w.-]+)", header(name).split("# Deviations:")[1].replace("=...", "=x"))
    composed(name, *overrides)
    assert name not in PUBLISHED or overrides


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_lengths_are_shares_and_fit_any_run(name):
    config = composed(name)
    schedule = config.schedule
    assert (schedule.warmup_epochs, schedule.warmup_steps, schedule.milestones) == (None, None, ())
    for total in (1, 2, 3, 10, 1000):
        lr_factor(schedule, base_lr=config.optim.base_lr, total_steps=total, steps_per_epoch=1)


@pytest.mark.parametrize(
    ("name", "images", "warmup"),
    [("demo", 1438, 2), ("cifar10_mim", 28_500, 1), ("cifar10_ft", 1000, 1), ("demo_ft", 100, 1)],
)
def test_our_own_recipes_warm_up_for_the_epochs_of_their_comment(name, images, warmup):
    config = composed(name)
    per_epoch = images // config.global_batch_size
    assert warmup_steps(config.schedule, per_epoch * config.trainer.max_epochs, per_epoch) == warmup * per_epoch
