"""The training step of SimMIM: our encoder against timm's and Hugging Face's, same weights, same batch, one process.

    python benchmarks/bench_step.py --model swinv2_t --batch 4                                  # CPU, fp32
    python benchmarks/bench_step.py --model swinv2_t --batch 4 --dtype bf16 --json step.json
    python benchmarks/bench_step.py --device cuda --model swinv2_b --batch 256 --dtype bf16 --compile --repeats 30

Repeats are interleaved, and every ratio is the median of the ratios of single rounds, so a busy machine disturbs all
contenders alike. Time is process CPU time of one thread on a CPU, and wall time between synchronisations on a GPU.
The step is zero_grad, forward and backward; no optimizer. The dated pages beside this file have the commands of
their tables.

The gradient error is the relative distance of all gradients to timm's in fp32, over `--draws` draws of weights, images
and masks: one draw says little (signs of the L1 loss flip, and the ratio of two errors moves by 20 %), so that the
geometric mean and the range are given.

Beside the results stand the attention kernels that ran, the share of the bias gradient (the step against the same with
the position bias MLP frozen; a core that computes it anyway shows only the MLP's part), and the roofline: the larger of
the time for the FLOPs at the measured matrix rate and for the bytes at the measured copy rate, where the bytes are what
is kept for backward, written and read once, and the weights, read twice, with their gradients, written once.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from contenders import Contender, HfEncoder, TimmEncoder
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain.simmim import SimMIM
from swinmim.checkpoint.names import to_ours
from swinmim.models.attention import ATTENTIONS, choose_core
from swinmim.models.recompute import RECOMPUTES
from swinmim.models.swinv2 import SwinV2, get_architecture

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    models = contenders(args)
    torch._dynamo.config.recompile_limit = 64  # the frozen position bias has graphs of its own

    flops = count_flops(args)
    errors = [gradient_errors(models, seed, args) for seed in range(1, args.draws + 1)]
    images, mask = draw(models, 0, args)
    steps = {name: make_step(model, images, mask, args) for name, model in models.items()}
    report: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        step()  # compiles, allocates
        report[name] = {"gradient_errors": [found[name] for found in errors]}
        models[name].zero_grad(set_to_none=True)
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            report[name]["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        report[name] |= saved_for_backward(step, models[name], args)
        models[name].zero_grad(set_to_none=True)
    times = measure(steps, models, args)
    rate, copying = matrix_rate(args), copy_rate(args)
    for name, seconds in times.items():
        median = statistics.median(seconds)
        report[name] |= {
            "seconds": median,
            "images_per_s": args.batch / median,
            "mfu": flops * args.batch / median / rate,
            "ratio": {other: ratio(seconds, times[other]) for other in times if other != name},
            "gradient_error_ratio": {
                other: spread([found[name] / found[other] for found in errors])
                for other in times
                if other != name and all(found[other] for found in errors)
            },
            "roofline": roofline(report[name], models[name], median, flops, rate, copying, args),
        }
    report["ours"] |= {
        "core": choose_core(args.core, args.chunk, torch.device(args.device)),
        "attention_kernels": attention_kernels(steps["ours"], args),
        "bias_gradient_share": bias_gradient_share(steps["ours"], models["ours"], args),
    }
    facts = {
        "arguments": vars(args),
        "flops_per_image": flops,
        "matrix_rate": rate,
        "copy_rate": copying,
        "machine": machine(args),
    }
    show(report, facts)
    if args.json:
        Path(args.json).write_text(json.dumps(facts | {"results": report}, indent=1, default=str) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="swinv2_t")
    parser.add_argument("--resolution", type=int, default=192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16 is autocast over fp32 weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--core", choices=ATTENTIONS, default="auto")
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="ours only; the others run eagerly")
    parser.add_argument("--recompute", choices=RECOMPUTES, default="none")
    parser.add_argument(
        "--against", nargs="*", choices=("timm", "hf", "reference"), default=["timm", "hf", "reference"]
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=4,
        help="for the gradient error, which needs room for one more set of gradients and an fp32 step: 0 for G",
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="file for the whole result")
    return parser.parse_args()


def contenders(args: argparse.Namespace) -> dict[str, SimMIM]:
    """SimMIM around each encoder; `draw` gives all of them the same weights."""
    architecture = get_architecture(args.model)
    options: dict[str, Any] = {"resolution": args.resolution}
    with torch.device("meta"):
        ours = SwinV2(architecture, **options, attention=args.core, chunk=args.chunk, recompute=args.recompute)
    ours.to_empty(device=args.device)
    encoders: dict[str, Any] = {"ours": ours}
    if "reference" in args.against:
        encoders["reference"] = SwinV2(architecture, **options, attention="reference")
    if architecture.extra_norms:
        print(f"{args.model} has norms that timm and Hugging Face lack: they are left out")
    else:
        if "timm" in args.against:
            encoders["timm"] = TimmEncoder(ours)
        if "hf" in args.against:
            encoders["hf"] = HfEncoder(ours)
    models = {name: SimMIM(encoder).to(args.device) for name, encoder in encoders.items()}
    for model in models.values():
        model.train()
    if args.compile:
        ours.compile_blocks()
    return models


def draw(models: dict[str, SimMIM], seed: int, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The same random weights for all (norm gammas too: at init blocks do nothing), an image batch and a mask."""
    torch.manual_seed(seed)
    ours = models["ours"]
    ours.encoder.reset_parameters()
    for name, parameter in ours.encoder.named_parameters():
        if "norm" in name and name.endswith("weight"):
            nn.init.normal_(parameter, 1.0, 0.1)
    ours.decoder[0].reset_parameters()
    nn.init.trunc_normal_(ours.mask_token, std=0.02)
    for model in models.values():
        if isinstance(model.encoder, Contender):
            model.encoder.take(ours.encoder)
        else:
            model.encoder.load_state_dict(ours.encoder.state_dict())
        model.decoder.load_state_dict(ours.decoder.state_dict())
        model.mask_token.data.copy_(ours.mask_token.data)
    images = torch.randn(args.batch, 3, args.resolution, args.resolution).to(args.device)
    return images, ours.draw_mask(torch.arange(args.batch) + args.batch * seed).to(args.device)


def make_step(model: SimMIM, images: Tensor, mask: Tensor, args: argparse.Namespace) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss, _ = model(images, mask)
        loss.backward()

    return step


def measure(
    steps: dict[str, Callable[[], None]], models: dict[str, SimMIM], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of every step, round by round; the order turns, so that nobody always follows the same neighbour."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(args.repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            models[name].zero_grad(set_to_none=True)
            times[name].append(clocked(steps[name], args.device))
            models[name].zero_grad(set_to_none=True)
    return times


def clocked(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    step()
    return time.process_time() - start


def ratio(seconds: list[float], others: list[float]) -> dict[str, float]:
    """Our time / theirs in the same round: median and range. Below 1 is faster."""
    ratios = [a / b for a, b in zip(seconds, others, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def spread(values: list[float]) -> dict[str, float] | None:
    """Geometric mean and range; None without values, or where one is 0."""
    if not values or not all(values):
        return None
    return {"mean": statistics.geometric_mean(values), "min": min(values), "max": max(values)}


def gradient_errors(models: dict[str, SimMIM], seed: int, args: argparse.Namespace) -> dict[str, float]:
    """The error of each model at the weights, images and mask of this seed."""
    images, mask = draw(models, seed, args)
    exact, errors = gradients_exact(models, images, mask), {}
    for name, model in models.items():
        make_step(model, images, mask, args)()
        errors[name] = relative_error(gradients(model), exact)
        model.zero_grad(set_to_none=True)
    return errors


def gradients(model: SimMIM) -> dict[str, Tensor]:
    """Gradients under our names."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    encoder = {name.removeprefix("encoder."): grad for name, grad in found.items() if name.startswith("encoder.")}
    if isinstance(model.encoder, TimmEncoder | HfEncoder):
        layout = "timm" if isinstance(model.encoder, TimmEncoder) else "huggingface"
        encoder = to_ours({name.removeprefix("model."): grad for name, grad in encoder.items()}, layout)
    return encoder | {name: grad for name, grad in found.items() if not name.startswith("encoder.")}


def gradients_exact(models: dict[str, SimMIM], images: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Gradients of timm in fp32 (of the literal core, or ours, where it is not there)."""
    model = next(models[name] for name in ("timm", "reference", "ours") if name in models)
    loss, _ = model(images, mask)
    loss.backward()
    exact = {name: grad.clone() for name, grad in gradients(model).items()}
    model.zero_grad(set_to_none=True)
    return exact


def relative_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    assert found.keys() == exact.keys()
    difference = sum((found[n] - exact[n]).double().square().sum() for n in exact)
    return float((difference / sum(exact[n].double().square().sum() for n in exact)) ** 0.5)


def saved_for_backward(step: Callable[[], None], model: SimMIM, args: argparse.Namespace) -> dict[str, Any]:
    """Bytes that autograd keeps per image, parameters not counted, and how many saved tensors are N x N per window.

    What activation checkpointing keeps is not seen by these hooks: with --recompute read the peak memory.
    """
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    tokens = {stage.window[0] * stage.window[1] for stage in model.encoder.stages}
    kept: dict[int, int] = {}
    square = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal square
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            shape = tensor.shape
            square += len(shape) > 2 and shape[-1] == shape[-2] in tokens and shape[:-2].numel() > MOST_HEADS(model)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return {"saved_mib_per_image": sum(kept.values()) / args.batch / 2**20, "saved_square_tensors": square}


def MOST_HEADS(model: SimMIM) -> int:
    return max(model.encoder.architecture.num_heads)


def count_flops(args: argparse.Namespace) -> float:
    """Forward and backward of the literal core, per image, without the position bias MLP's share of a real batch."""
    with torch.device("meta"):
        model = SimMIM(SwinV2(get_architecture(args.model), resolution=args.resolution, attention="reference"))
        images = torch.empty(2, 3, args.resolution, args.resolution)
        mask = torch.empty(2, args.resolution // 32, args.resolution // 32, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        model(images, mask)[0].backward()
    return counter.get_total_flops() / 2


def matrix_rate(args: argparse.Namespace) -> float:
    """FLOP/s of one large square product in the dtype of the step, the best of five."""
    side = 8192 if args.device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=args.device, dtype=DTYPES[args.dtype]) for _ in range(2))
    best = min(clocked(lambda: a @ b, args.device) for _ in range(6))
    return 2.0 * side**3 / best


def copy_rate(args: argparse.Namespace) -> float:
    """Bytes/s read and written by a copy that no cache holds, the best of five."""
    source = torch.empty(2**30 if args.device == "cuda" else 2**28, dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    best = min(clocked(lambda: target.copy_(source), args.device) for _ in range(6))
    return 2.0 * source.numel() / best


def roofline(
    result: dict[str, Any],
    model: SimMIM,
    seconds: float,
    flops: float,
    rate: float,
    copying: float,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Seconds that the FLOPs and the bytes need at least, and the share of the step that the larger one is."""
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    moved = 2 * result["saved_mib_per_image"] * 2**20 * args.batch + 3 * parameters
    bounds = {"flops_seconds": flops * args.batch / rate, "bytes_seconds": moved / copying}
    return bounds | {"share": max(bounds.values()) / seconds}


ATTENTION_KERNEL = re.compile(r"fmha|flash|attention|sdp|softmax", re.IGNORECASE)


def attention_kernels(step: Callable[[], None], args: argparse.Namespace) -> dict[str, float]:
    """Kernels of one step that attention ran (on a CPU: operators), and their own share of all the time."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if args.device == "cuda" else activity.CPU]) as profile:
        step()
        if args.device == "cuda":
            torch.cuda.synchronize()
    field = "self_device_time_total" if args.device == "cuda" else "self_cpu_time_total"
    spent = {event.key: getattr(event, field) for event in profile.key_averages()}
    total = sum(spent.values())
    return {name: time / total for name, time in spent.items() if ATTENTION_KERNEL.search(name) and time}


def bias_gradient_share(step: Callable[[], None], model: SimMIM, args: argparse.Namespace) -> float:
    """Share of the step that goes when the position bias is not trained; median over rounds."""
    frozen = [p for name, p in model.named_parameters() if ".cpb_mlp." in name]

    def clock(trained: bool) -> float:
        for parameter in frozen:
            parameter.requires_grad_(trained)
        model.zero_grad(set_to_none=True)
        return clocked(step, args.device)

    clock(False)  # compiles
    shares = [1 - clock(False) / clock(True) for _ in range(args.repeats)]
    model.zero_grad(set_to_none=True)
    return statistics.median(shares)


def machine(args: argparse.Namespace) -> dict[str, str]:
    hardware = torch.cuda.get_device_name() if args.device == "cuda" else cpu_name()
    versions = {module.__name__: module.__version__ for module in (torch, timm, transformers)}
    return {"hardware": hardware, "python": platform.python_version(), **versions}


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def show(report: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    print(facts["machine"])
    print(f"matrix rate {facts['matrix_rate'] / 1e12:.3f} TFLOP/s, copy rate {facts['copy_rate'] / 1e9:.1f} GB/s")
    print(f"{facts['flops_per_image'] / 1e9:.2f} GFLOP per image, forward and backward")
    print(
        "| encoder | s | images/s | MFU | roofline | ours / it | saved MiB/image | N x N kept | peak GiB "
        "| gradient error | ours / it |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, r in report.items():
        ours = report["ours"]["ratio"].get(name)
        against = f"{ours['median']:.3f} ({ours['min']:.2f}-{ours['max']:.2f})" if ours else ""
        peak = f"{r['peak_memory_gib']:.2f}" if "peak_memory_gib" in r else ""
        error = f"{e['mean']:.2e}" if (e := spread(r["gradient_errors"])) else ""
        beside = report["ours"]["gradient_error_ratio"].get(name)
        error += f" | {beside['mean']:.3f} ({beside['min']:.2f}-{beside['max']:.2f})" if beside else " | "
        print(
            f"| {name} | {r['seconds']:.4f} | {r['images_per_s']:.2f} | {r['mfu']:.3f} | {r['roofline']['share']:.3f} "
            f"| {against} | {r['saved_mib_per_image']:.1f} | {r['saved_square_tensors']} | {peak} | {error} |"
        )
    ours = report["ours"]
    bounds = ", ".join(f"{ours['roofline'][f'{what}_seconds']:.4f} s for {what}" for what in ("flops", "bytes"))
    print(f"core {ours['core']}; bias gradient {ours['bias_gradient_share']:.1%} of the step; at least {bounds}")
    for name, share in sorted(ours["attention_kernels"].items(), key=lambda item: -item[1]):
        print(f"  {share:6.1%}  {name[:100]}")


if __name__ == "__main__":
    main()
