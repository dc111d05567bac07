"""Memory of a pretraining run per GPU: states by strategy and number of GPUs, activations by recomputation policy.

    python benchmarks/plan_memory.py --model swinv2_g --resolution 192 --json benchmarks/DATE_memory_g.json

States are counted (docs/cluster.md), beside what DeepSpeed's own estimators say. Activations are measured: the bytes
that autograd keeps for one image in bf16 autocast with the attention core that keeps no N x N tensor, one block of each
stage at its real width, times the number of such blocks, plus everything outside the blocks. A GPU's allocator, the
workspaces of its kernels and fragments come on top; plan with 10 % of the card left free.
"""

import argparse
import dataclasses
import json
import platform
from pathlib import Path

import torch
from torch import Tensor

from pretrain.simmim import SimMIM
from swinmim.memory import GIB, training_bytes
from swinmim.models.architecture import Architecture, get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.tables import table
from swinmim.training.strategies.zero import BUCKET

ROWS = (("single or ddp", 0), ("deepspeed_zero1", 1), ("deepspeed_zero2", 2), ("deepspeed_zero3", 3))
GPUS = (1, 8, 64)


def kept_bytes(architecture: Architecture, resolution: int) -> int:
    """Bytes that autograd keeps for one image, parameters and their bf16 copies not counted."""
    model = SimMIM(SwinV2(architecture, resolution=resolution, attention="chunked"))
    images = torch.rand(1, architecture.in_chans, resolution, resolution)
    mask = model.draw_mask(torch.tensor([0]))
    sizes = {parameter.numel() for parameter in model.parameters() if parameter.ndim > 1}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.nbytes() // tensor.element_size() not in sizes:  # a weight, or autocast's copy of it
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        loss, _ = model(images, mask)
    del loss
    return sum(kept.values())


def activations(architecture: Architecture, resolution: int) -> dict[str, float]:
    """Bytes per image: without recomputation, and with whole blocks recomputed (inputs, and one block at a time)."""
    one = (1,) * architecture.num_stages
    shallow = dataclasses.replace(architecture, depths=one, extra_norm_every=0)
    base = kept_bytes(shallow, resolution)
    per_block = []
    for stage in range(architecture.num_stages):
        depths = tuple(depth + (index == stage) for index, depth in enumerate(one))
        per_block.append(kept_bytes(dataclasses.replace(shallow, depths=depths), resolution) - base)
    outside = base - sum(per_block)
    tokens = [(resolution // architecture.patch_size // 2**stage) ** 2 for stage in range(architecture.num_stages)]
    inputs = [4 * count * dim for count, dim in zip(tokens, architecture.stage_dims, strict=True)]
    norms = sum(
        4 * tokens[stage] * architecture.stage_dims[stage]
        for stage, depth in enumerate(architecture.depths)
        for block in range(depth)
        if architecture.has_extra_norm(stage, block)
    )
    return {
        "none": outside + norms + sum(d * b for d, b in zip(architecture.depths, per_block, strict=True)),
        "full": outside + sum(d * b for d, b in zip(architecture.depths, inputs, strict=True)) + max(per_block),
    }


def deepspeed_says(num_parameters: int, largest: int, stage: int, gpus: int) -> float | None:
    """DeepSpeed's own estimate for 16-bit parameters, bytes per GPU."""
    if stage == 2:
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as estimate

        return estimate(num_parameters, min(gpus, 8), max(1, gpus // 8), cpu_offload=False)[1]
    if stage == 3:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate3

        return estimate3(num_parameters, largest, min(gpus, 8), max(1, gpus // 8), cpu_offload=False)[1]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="swinv2_g")
    parser.add_argument("--resolution", type=int, default=192)
    parser.add_argument("--cards", type=float, nargs="+", default=[80.0, 141.0], help="GB of the GPUs to plan for")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    architecture = get_architecture(args.model)
    with torch.device("meta"):
        model = SimMIM(SwinV2(architecture, resolution=args.resolution))
    num_parameters = sum(p.numel() for p in model.parameters())
    block = max(sum(p.numel() for p in b.parameters()) for stage in model.encoder.layers for b in stage.blocks)
    per_image = activations(architecture, args.resolution)
    print(f"{args.model} at {args.resolution} px: {num_parameters / 1e6:,.0f}M parameters")
    print(", ".join(f"recompute={name} {value / 2**20:,.0f} MiB an image" for name, value in per_image.items()), "\n")

    rows = [["strategy", "GPUs", "states GiB", "DeepSpeed's estimate"]]
    rows[0] += [f"images on {card:g} GB, {policy}" for card in args.cards for policy in per_image]
    results = []
    for name, stage in ROWS:
        for gpus in GPUS:
            states = training_bytes(num_parameters, zero_stage=stage, world_size=gpus)
            buffers = (2 * 4 * BUCKET if stage else 0) + (2 * 4 * block if stage == 3 else 0)
            estimate = deepspeed_says(num_parameters, block, stage, gpus)
            room = {
                f"{card:g} GB, {policy}": max(0, int((0.9e9 * card - states - buffers) / value))
                for card in args.cards
                for policy, value in per_image.items()
            }
            shown = "" if estimate is None else f"{estimate / GIB:.1f}"
            rows.append(
                [
                    name,
                    str(gpus),
                    f"{(states + buffers) / GIB:.1f}",
                    shown,
                    *(str(n) if n else "-" for n in room.values()),
                ]
            )
            results.append(
                {"strategy": name, "gpus": gpus, "state_bytes": states, "buffer_bytes": buffers, "images": room}
            )
    print(table(rows))
    if args.json:
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        args.json.write_text(
            json.dumps(
                {
                    "model": args.model,
                    "resolution": args.resolution,
                    "parameters": num_parameters,
                    "activation_bytes_per_image": per_image,
                    "plan": results,
                    "versions": versions,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
