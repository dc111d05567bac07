"""Bytes that a training needs, and that a machine has."""

import os

GIB = 2**30


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
