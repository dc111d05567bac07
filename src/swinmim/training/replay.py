"""The step that ended a run, in a folder that one device can run again.

`OUTPUT/replay/step_*` holds `replay.json` (what to build, and which checkpoint), `weights.safetensors`, and
for each rank at fault `rank_N.json` and `rank_N_batch_M.safetensors`. Masks and flips follow from the batch's seeds,
drop path and mixup from the micro-batch's.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, Field, FiniteFloat
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from swinmim.checkpoint.encoder import write_tensors
from swinmim.errors import DataError
from swinmim.outside import Unreadable, brief, read_json
from swinmim.training.callbacks.randomness import seed_all
from swinmim.training.module import Plan, TrainingModule

T = TypeVar("T")

VERSION = 1
INFO = "replay.json"
WEIGHTS = "weights.safetensors"


@dataclasses.dataclass
class MicroBatch:
    """One forward and backward pass of one rank.

    batch: as it left the loader. number: in its epoch. seed: of `randomness.seed_all`. loss: (), on the device.
    """

    batch: dict[str, Tensor]
    epoch: int
    number: int
    seed: int
    loss: Tensor | None = None


def write_bundle(
    folder: Path,
    module: TrainingModule,
    micro_batches: Sequence[MicroBatch],
    *,
    rank: int,
    names: Callable[[MicroBatch], list[str]],
    origin: dict[str, Any],
) -> Path:
    """Every rank adds what it has to give; all must call it.

    folder: one for all ranks. module: its weights are the ones to replay with. micro_batches: of this rank; none when
    the fault is another's. names: where the samples of a micro-batch come from. origin: plain values for `replay.json`:
    the typed config, precision, step, checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = module.full_weights()
    if rank == 0:
        write_tensors(folder / WEIGHTS, state)
        normalisation = {"mean": module.mean.tolist(), "std": module.std.tolist()}
        plan = dataclasses.asdict(module.plan)
        _write(folder / INFO, {"version": VERSION, "plan": plan, **normalisation, **origin})
    for number, micro_batch in enumerate(micro_batches):
        write_tensors(_batch_file(folder, rank, number), micro_batch.batch)
    if micro_batches:
        entries = [{"epoch": m.epoch, "number": m.number, "seed": m.seed, "samples": names(m)} for m in micro_batches]
        _write(folder / f"rank_{rank}.json", entries)
    return folder


class Info(BaseModel):
    """What `replay.json` says: which command and settings, the module's own facts, and the step."""

    label: Literal["pretrain", "finetune"]
    config: dict[str, Any]
    precision: str
    plan: Plan
    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
    classes: tuple[str, ...] = ()
    facts: dict[str, Any] = {}
    step: int
    checkpoint: str


class _Entry(BaseModel):
    """A micro-batch in `rank_N.json`."""

    epoch: int
    number: int
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    samples: list[str]


def read_info(folder: Path) -> Info:
    """What `replay.json` says. Raises DataError: the folder is no bundle, or one of another version."""
    version = _read(folder / INFO, dict[str, Any]).get("version")
    if version != VERSION:
        raise DataError(f"{folder} is a bundle of version {brief(version)}; this program reads {VERSION}.")
    return _read(folder / INFO, Info)


def read_micro_batches(folder: Path) -> list[tuple[str, MicroBatch, list[str]]]:
    """(name, micro-batch, its samples) of all ranks in the bundle. Raises DataError: a file of it is damaged."""
    found = []
    for path in sorted(folder.glob("rank_*.json")):
        rank = path.stem.removeprefix("rank_")
        for number, entry in enumerate(_read(path, list[_Entry])):
            batch = _tensors(_batch_file(folder, rank, number))
            if "index" not in batch or len(entry.samples) not in (0, len(batch["index"])):
                raise DataError(f"{path} does not fit the batches beside it.")
            name = f"rank {rank}, epoch {entry.epoch}, micro-batch {entry.number}"
            micro_batch = MicroBatch(batch=batch, epoch=entry.epoch, number=entry.number, seed=entry.seed)
            found.append((name, micro_batch, entry.samples))
    return found


def load_weights(folder: Path, module: TrainingModule) -> None:
    """The weights that the failing step met. Raises DataError: they are damaged, or another model's."""
    try:
        module.network.load_state_dict(_tensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise DataError(f"{folder / WEIGHTS} does not fit the model of {INFO}: {error}") from error


def _read(path: Path, kind: type[T]) -> T:
    try:
        return read_json(path, kind)
    except (OSError, Unreadable) as error:
        raise DataError(f"{path.parent} is no replay bundle: {path.name} cannot be read ({error}).") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path.parent} is no replay bundle: {path.name} is no file.")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error


@dataclasses.dataclass
class Finding:
    """loss: of the micro-batch. first: the module whose output (forward) or whose gradient (backward) was the first
    non-finite one, None when all were finite. grad_norm: over all parameters. rows: samples that alone give a
    non-finite loss.
    """

    loss: float
    first: str | None
    grad_norm: float
    rows: list[int]

    def __str__(self) -> str:
        where = "every value is finite here" if self.first is None else f"first non-finite value: {self.first}"
        return f"loss {self.loss:.6g}, gradient norm {self.grad_norm:.6g}; {where}"


def replay(module: TrainingModule, micro_batch: MicroBatch, *, device: torch.device, precision: str) -> Finding:
    """Run one micro-batch forward and backward as the run did, and look at everything that passes."""
    module.to(device).train()
    batch = {name: value.to(device) for name, value in micro_batch.batch.items()}
    seen: list[str] = []
    handles = [
        part.register_forward_hook(_watch_forward(f"{name} ({type(part).__name__})", seen))
        for name, part in module.named_modules()
    ]
    module.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        seed_all(micro_batch.seed)
        loss = module.training_loss(batch)
        for handle in handles:
            handle.remove()
        loss.backward()  # type: ignore[no-untyped-call]
        rows = []
        if not math.isfinite(float(loss.detach())):
            with torch.no_grad():
                for row in range(len(batch["index"])):
                    alone = module.training_loss({name: value[row : row + 1] for name, value in batch.items()})
                    rows += [row] * (not math.isfinite(float(alone)))
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    if not seen and not math.isfinite(float(norm)):
        # The backward pass goes through the parameters from the last to the first.
        last = next(name for name, gradient in reversed(gradients.items()) if not gradient.isfinite().all())
        seen.append(f"the gradient of {last}, in the backward pass")
    return Finding(float(loss.detach()), seen[0] if seen else None, float(norm), rows)


def _watch_forward(title: str, seen: list[str]) -> Callable[..., None]:
    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        values = output if isinstance(output, tuple | list) else (output,)
        if not seen and any(isinstance(v, Tensor) and not v.isfinite().all() for v in values):
            seen.append(f"output of {title}")

    return look


def _batch_file(folder: Path, rank: int | str, number: int) -> Path:
    return folder / f"rank_{rank}_batch_{number}.safetensors"


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")
