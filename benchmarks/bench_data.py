"""Data loading against the SimMIM way (Pillow + torchvision's float transforms), from the same images in the same run.

    python benchmarks/bench_data.py [--photos DIR] [--repeats 7] [--out benchmarks/results]

Process CPU time on one thread, methods interleaved in random order, medians; ratios are what counts. Without --photos,
JPEGs of about 500 x 375 and 100 KB are made up.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from data.codecs.decode import decode
from data.codecs.encode import EncodeOptions, encode
from data.loading.batch import LoaderSettings
from data.loading.dataset import BatchDataset
from data.loading.sampler import TrainSampler
from data.loading.views import RandomCrop, crop_box, resize
from data.order.epoch import EpochOrder, ShardStarts
from data.shards.local import ShardSet
from data.shards.manifest import Shard
from data.shards.rows import INDEX, index_bytes
from data.write.writer import WriteOptions, write_shards

RESOLUTION = (192, 192)


def made_photos(folder: Path, count: int = 100) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=88)


def simmim_way(shards: ShardSet):
    transform = transforms.Compose([
        transforms.RandomHorizontalFlip(),
        transforms.RandomResizedCrop(RESOLUTION, scale=(0.67, 1.0), ratio=(3 / 4, 4 / 3)),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip

    def run(places) -> None:
        images = [transform(Image.open(io.BytesIO(shards.read(p.sample).data)).convert("RGB")) for p in places]
        torch.stack(images)

    return run


def methods(shards: ShardSet, batches):
    """Name to a function of the places of one batch."""
    settings = LoaderSettings(resolution=RESOLUTION, seed=0, global_batch=20, batch_size=20)
    dataset = BatchDataset(shards, np.arange(len(shards)), RandomCrop(RESOLUTION), settings, "train")
    files = {index: shards.read(index).data for index in range(len(shards))}
    blank = torch.zeros(*RESOLUTION, 3, dtype=torch.uint8)

    def floor(places) -> None:
        for place in places:
            pixels = decode(files[place.sample])
            top, left, h, w = boxes[place.position % len(boxes)](pixels)
            resize(pixels[top : top + h, left : left + w], RESOLUTION)

    boxes = [lambda p, s=s: crop_box(p.shape[0], p.shape[1], s, (0.67, 1.0), (3 / 4, 4 / 3)) for s in range(64)]

    def read_and_collate(places) -> None:
        image = torch.empty((len(places), *RESOLUTION, 3), dtype=torch.uint8)
        for row, place in enumerate(places):
            shards.read(place.sample)
            image[row] = blank

    return {
        "simmim": simmim_way(shards),
        "ours": dataset.__getitems__,
        "floor: decode + resize": floor,
        "decode": lambda places: [decode(files[p.sample]) for p in places],
        "decode with pil": lambda places: [decode(files[p.sample], decoder="pil") for p in places],
        "read + collate": read_and_collate,
    }


def loading(shards: ShardSet, repeats: int) -> dict[str, float]:
    """Microseconds of CPU per image."""
    everything = np.arange(len(shards))
    sampler = TrainSampler(everything, shards.order(everything, 20, len(shards) // 20, 0), 20, 20)
    batches = list(sampler)
    runs = methods(shards, batches)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name in random.sample(list(runs), len(runs)):
            begin = time.process_time()
            for places in batches:
                runs[name](places)
            if repeat:  # the first warms up
                times[name].append((time.process_time() - begin) / (len(batches) * 20) * 1e6)
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


def writing(folder: Path, repeats: int) -> dict[str, float]:
    """Microseconds of CPU per image: the whole writer with one process, and decode + resize + encode alone."""
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    options = WriteOptions(workers=1)
    whole, floor = [], []
    for _ in range(max(3, repeats // 2)):
        with tempfile.TemporaryDirectory() as dest:
            begin = time.process_time()
            write_shards(folder, Path(dest) / "set", options)
            whole.append((time.process_time() - begin) / len(files) * 1e6)
        begin = time.process_time()
        for data in files:
            encode(data, EncodeOptions())
        floor.append((time.process_time() - begin) / len(files) * 1e6)
    return {"write": round(statistics.median(whole), 1), "floor: decode + encode": round(statistics.median(floor), 1)}


def encode_all(files: list[bytes]) -> None:
    for data in files:
        encode(data, EncodeOptions())


def writing_on_all_cores(folder: Path, repeats: int, images: int = 2000) -> dict[str, float]:
    """Wall seconds of `python -m data.write` from its start to its end, and of the encoding alone by as many processes
    that have started already and hold the files in memory; in turn, the ratio of each pair."""
    cores = len(os.sched_getaffinity(0))
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    many = [files[n % len(files)] for n in range(images)]
    whole, floor = [], []
    with tempfile.TemporaryDirectory() as scratch, multiprocessing.get_context("spawn").Pool(cores) as pool:
        source = Path(scratch) / "in"
        source.mkdir()
        for number, data in enumerate(many):
            (source / f"{number:05d}.jpg").write_bytes(data)
        pool.map(encode_all, [files[:1]] * cores, 1)
        for repeat in range(max(3, repeats // 2)):
            begin = time.perf_counter()
            pool.map(encode_all, [many[n::cores] for n in range(cores)], 1)
            floor.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            command = [sys.executable, "-m", "data.write", source, f"{scratch}/out{repeat}", "--workers", str(cores)]
            subprocess.run(command, check=True, capture_output=True)
            whole.append(time.perf_counter() - begin)
    return {
        f"write, {cores} processes, s": round(statistics.median(whole), 2),
        f"floor: decode + encode, {cores} processes, s": round(statistics.median(floor), 2),
        "share of the floor": round(statistics.median(f / w for f, w in zip(floor, whole, strict=True)), 3),
    }


def ordering() -> dict[str, float]:
    starts = ShardStarts([2600] * 400_000)
    seeks: dict[int, list[float]] = {1: [], 8: []}
    steps = []
    for epoch in range(100):
        for lanes, taken in seeks.items():
            begin = time.process_time()
            order = EpochOrder(starts, 1024, 0, epoch, lanes=lanes)
            order.batch(10**9 // 1024)
            taken.append(time.process_time() - begin)
    for step in range(100):
        begin = time.process_time()
        order.batch(step)
        steps.append((time.process_time() - begin) / 1024)
    with tempfile.TemporaryDirectory() as folder:
        path, shards = Path(folder), []
        for number in range(40):
            index = index_bytes([(512, 9, 0, 0)] * 2500)
            shard = Shard(f"train-{number:06d}.tar", 2500, 521, "0" * 64, hashlib.sha256(index).hexdigest())
            (path / shard.index_name).write_bytes(index)
            (path / shard.name).write_bytes(bytes(521))
            shards.append(shard)
        fields = {"version": 1, "classes": [], "channels": 3, "mean": [0] * 3, "std": [1] * 3}
        (path / "manifest.json").write_text(json.dumps(fields | {"shards": [asdict(s) for s in shards]}))
        begin = time.process_time()
        assert len(ShardSet.open(path)) == 100_000
        opened = time.process_time() - begin
    assert INDEX.itemsize == 17
    return {
        "order, us a sample": round(statistics.median(steps) * 1e6, 3),
        **{
            f"seek to 1e9, {lanes} lane(s), ms ({name} of 100)": round(of(taken) * 1e3, 3)
            for lanes, taken in seeks.items()
            for name, of in (("least", min), ("median", statistics.median))
        },
        "open a set of 100k samples, s": round(opened, 4),
    }


def judged(name: str, found: dict[str, float]) -> dict[str, float]:
    return {
        f"{name}: times the SimMIM way": round(found["simmim"] / found["ours"], 2),
        f"{name}: share of the decode + resize floor": round(found["floor: decode + resize"] / found["ours"], 3),
        f"{name}: read + collate, share of the time": round(found["read + collate"] / found["ours"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEGs, as they come")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        photos = given.photos or Path(scratch) / "photos"
        if given.photos is None:
            photos.mkdir()
            made_photos(photos)
        result: dict[str, object] = {
            "date": date.today().isoformat(),
            "images": "photos" if given.photos else "made up",
            "machine": f"{platform.machine()}, {platform.processor() or 'unknown'}",
            "versions": {n: version(n) for n in ("torch", "torchvision", "pillow", "simplejpeg", "numpy")},
            "note": "microseconds of CPU per image unless a unit is named; one thread",
        }
        ratios: dict[str, float] = {}
        for name, size in (("originals", None), ("256 px", 256)):
            dest = Path(scratch) / name
            write_shards(photos, dest, WriteOptions(resize=size, workers=1))
            found = loading(ShardSet.open(dest), given.repeats)
            result[name] = found
            ratios |= judged(name, found)
        # What packing gains over reading the same photos the SimMIM way.
        originals, packed = result["originals"], result["256 px"]
        assert isinstance(originals, dict)
        assert isinstance(packed, dict)
        ratios["256 px: times the SimMIM way on the originals"] = round(originals["simmim"] / packed["ours"], 2)
        result["writing"] = written = writing(photos, given.repeats)
        ratios["writing: share of the decode + encode floor"] = round(
            written["floor: decode + encode"] / written["write"], 3
        )
        result["writing, all cores"] = on_all = writing_on_all_cores(photos, given.repeats)
        ratios["writing on all cores: share of the decode + encode floor"] = on_all["share of the floor"]
        result["ratios"] = ratios | ordering()
    text = json.dumps(result, indent=1)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"data_{result['date']}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
