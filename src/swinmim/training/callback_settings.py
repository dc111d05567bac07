"""Settings of the callbacks, apart from them: checking a configuration must not wait for Lightning's import."""

from typing import Annotated

from pydantic import Field

from swinmim.config import Count, Positive, schema

Band = Annotated[int, Field(ge=0)]


@schema
class CheckpointConfig:
    every_epochs: Count = 1
    """Epochs between checkpoints; the last epoch is always saved."""
    every_steps: Count | None = None
    """Optimizer steps between further checkpoints inside an epoch; null saves at epoch ends only."""
    keep_last: Count = 2
    keep_every_epochs: Count | None = None
    """The checkpoints of every so many epochs are kept for good; null keeps the last and the best only."""

    def __post_init__(self) -> None:
        if self.keep_every_epochs is not None and self.keep_every_epochs % self.every_epochs:
            raise ValueError(
                f"keep_every_epochs must be a multiple of every_epochs={self.every_epochs}, since only what was saved "
                f"can be kept; got {self.keep_every_epochs}"
            )


Decay = Annotated[float, Field(gt=0, lt=1)]


@schema
class ReconstructionsConfig:
    every_epochs: Count = 1
    """Epochs between pictures; the last epoch is always drawn."""
    num_images: Count = 8
    bands: tuple[Band, Band, Band] | None = None
    """Channels, counted from 0, shown as red, green and blue; null shows the first three, or the first as grey."""


@schema
class PredictionsConfig:
    every_epochs: Count = 1
    """Epochs between pictures; the last epoch is always drawn. Only tasks that draw over the image have some."""
    num_images: Count = 8
    """At most; those of the first validation batch."""
    bands: tuple[Band, Band, Band] | None = None
    """As those of the reconstructions."""


@schema
class HeartbeatConfig:
    """Runs of several processes only. A killed process is noticed at once, whatever these say."""

    silence_s: float = 60
    """Seconds without a sign of life of a process until all others end."""
    stall_s: float = 540
    """Seconds in which no process gets anywhere until all end; longer than compiling, a batch or a save takes.
    NCCL gives up a collective by itself, without naming anyone, after 600."""

    def __post_init__(self) -> None:
        if not 1 <= self.silence_s <= self.stall_s:
            raise ValueError(f"needs 1 <= silence_s <= stall_s, got {self.silence_s} and {self.stall_s}")


@schema
class StabilityConfig:
    max_nonfinite_steps: Count = 8
    """So many optimizer steps in a row with a non-finite loss or gradient end the run, with a bundle for replay.py."""
    spike_threshold: Positive | None = None
    """A loss this many robust standard deviations above the median of the last `spike_window` steps sends the weights
    back to the newest checkpoint before it; the batches in between are passed by. null: off."""
    spike_window: Annotated[int, Field(ge=2)] = 100
