"""What a run prints about itself: tables on rank 0, derived values, memory needs."""

import os
from collections.abc import Mapping, Sequence

GIB = 2**30


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def settings(values: Mapping[str, object]) -> str:
    """One `name  value` line each."""
    width = max(map(len, values))
    return "\n".join(f"  {name.ljust(width)}  {_shown(value)}" for name, value in values.items())


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def training_bytes(num_parameters: int, *, zero_stage: int = 0, world_size: int = 1) -> int:
    """Bytes per rank of weights, gradients and AdamW's two moments, all float32.

    Without ZeRO 16 per parameter (SwinV2 paper, section 3.5). DeepSpeed keeps a further copy of the weights beside the
    moments it partitions. Stage 1 divides that copy and the moments by the number of ranks, stage 2 the gradients as
    well, stage 3 everything.
    """
    whole, divided = {0: (16, 0), 1: (8, 12), 2: (4, 16), 3: (0, 20)}[zero_stage]
    return num_parameters * whole + -(-num_parameters * divided // world_size)


def host_memory() -> int:
    """Physical memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
