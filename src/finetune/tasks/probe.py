"""Linear and attentive probes of a frozen encoder, a grid of rates in one pass over its features."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from finetune.frozen import Effort, FrozenConfig, FrozenTask, Measured
from swinmim.config import Count, Positive, schema
from swinmim.errors import ConfigError, DataError

if TYPE_CHECKING:
    from swinmim.evaluation.features import Features
    from swinmim.evaluation.heads import Heads
    from swinmim.models.swinv2 import SwinV2

Head = Literal["linear", "attentive"]


@schema
class ProbeConfig(FrozenConfig):
    kind: Literal["probe"]
    heads: tuple[Head, ...]
    """linear: one layer on the mean of a map; attentive: efficient probing, which reads the whole map."""
    queries: Count
    """Learned queries of the attentive head; must divide the channels of each stage."""
    rates: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Peak rates of AdamW; each head is trained with all of them at once."""
    held_out: Annotated[float, Field(gt=0, lt=1)]
    """Share of the training images on which the rate is chosen. They train no head, and the reported set chooses
    nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads names linear, attentive or both; got {list(self.heads)}")
        if len(set(self.rates)) < len(self.rates):
            raise ValueError(f"rates names each rate once; got {list(self.rates)}")


class Probe(FrozenTask[ProbeConfig]):
    """How much of the classes a small head reads off the features."""

    kind = "probe"
    Settings = ProbeConfig

    def __init__(self, settings: ProbeConfig, encoder: SwinV2, classes: int) -> None:
        super().__init__(settings, encoder, classes)
        for stage in self.stages if self.keeps_maps else ():
            channels = self.channels[stage - 1]
            if channels % settings.queries:
                fits = max(n for n in range(1, settings.queries) if channels % n == 0)
                raise ConfigError(
                    f"task.queries must divide the {channels} channels of stage {stage}, got {settings.queries}. "
                    f"Add task.queries={fits}, or task.heads=[linear]."
                )

    @property
    def keeps_maps(self) -> bool:
        return "attentive" in self.settings.heads

    def measure(self, train: Features, val: Features, effort: Effort) -> list[Measured]:
        import torch

        from data.order.subsets import split
        from swinmim.evaluation.heads import best_of, score_heads, train_heads

        learn, choose = split(len(train.labels), self.settings.held_out, seed=0)
        if len(choose) == 0 or len(learn) < 2:
            raise DataError(
                f"task.held_out={self.settings.held_out} of {len(train.labels)} training images leaves {len(learn)} to "
                "learn from and holds out "
                f"{len(choose)} to choose the rate on; at least 2 and 1 are needed. Give more images."
            )
        scored = []
        for stage in self.stages:
            for kind in self.settings.heads:
                known, unknown = ((one.maps if kind == "attentive" else one.pooled)[stage] for one in (train, val))
                heads = self.heads(kind, known.shape[-1], effort.seed)
                train_heads(
                    heads,
                    known,
                    train.labels,
                    self.settings.rates,
                    samples=torch.from_numpy(learn),
                    epochs=effort.epochs,
                    batch_size=effort.batch_size,
                    seed=effort.seed,
                    device=effort.device,
                )
                score = functools.partial(score_heads, heads, batch_size=effort.batch_size, device=effort.device)
                on_held_out = score(known[choose], train.labels[choose])
                best = best_of(on_held_out)
                top1 = score(unknown, val.labels)[best].top1
                chosen = {"rate": self.settings.rates[best], "held_out_top1": on_held_out[best].top1}
                scored.append(Measured(stage, kind, top1, chosen))
        return scored

    def heads(self, kind: Head, channels: int, seed: int) -> Heads:
        """One head for each rate."""
        from swinmim.evaluation.attentive import AttentiveHeads
        from swinmim.evaluation.linear import LinearHeads

        count = len(self.settings.rates)
        match kind:
            case "linear":
                return LinearHeads(count, channels, self.classes, seed)
            case "attentive":
                return AttentiveHeads(count, channels, self.classes, self.settings.queries, seed)

    def remarks(self, measured: list[Measured]) -> list[str]:
        rates = self.settings.rates
        ends = {f"{one.head}, stage {one.stage}" for one in measured if one.chosen["rate"] in (min(rates), max(rates))}
        wider = f"The best rate lies at an end of task.rates for {'; '.join(sorted(ends))}: a wider grid may give more."
        return [*super().remarks(measured), *([wider] if ends and len(rates) > 1 else [])]
