"""How much of a model a set of named tensors covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

_SHOWN = 4  # names per line of a report


@dataclass(frozen=True)
class Coverage:
    """The outcome of matching tensors with the parameters of a model, by name and shape."""

    total: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    """`name: shape found, shape expected`."""
    notes: tuple[str, ...] = ()
    """Further lines of the report."""

    @property
    def loaded(self) -> int:
        return self.total - len(self.missing) - len(self.mismatched)

    @property
    def complete(self) -> bool:
        """Every parameter is there and nothing is left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"loaded {self.loaded}/{self.total}"]
        for label, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("shape mismatch", self.mismatched),
        ):
            if names:
                more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(f"{label} {len(names)}: {', '.join(names[:_SHOWN])}{more}")
        return "\n  ".join((*lines, *self.notes))


def coverage(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Coverage:
    """Match `found` tensors with the `expected` ones of a model (its state dict)."""
    return Coverage(
        total=len(expected),
        missing=tuple(name for name in expected if name not in found),
        unexpected=tuple(name for name in found if name not in expected),
        mismatched=tuple(
            f"{name}: {tuple(found[name].shape)} found, {tuple(tensor.shape)} expected"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ),
    )
