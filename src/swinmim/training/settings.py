"""Settings that pretraining and fine-tuning share; their root schemas extend it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from swinmim.config import Count, schema
from swinmim.distributed import launch
from swinmim.models.choices import Attention, Recompute
from swinmim.optim.schedules import ScheduleConfig
from swinmim.optim.settings import OptimConfig
from swinmim.training.callback_settings import CheckpointConfig, Decay, HeartbeatConfig, StabilityConfig


@schema
class WandbConfig:
    project: str = "swinmim"
    entity: str | None = None
    name: str | None = None
    """Shown name; null takes the output directory's name."""
    tags: tuple[str, ...] = ()
    mode: Literal["online", "offline"] = "online"
    """online falls back to offline, with a message, when there is no key or no network."""


@schema
class ZeroConfig:
    stage: Literal[1, 2, 3]
    """What is partitioned over the ranks: 1 the optimizer's state, 2 gradients as well, 3 parameters as well."""
    offload: bool = False
    """Keep parameters and optimizer state in host memory, and update them there; stage 3 only."""

    def __post_init__(self) -> None:
        if self.offload and self.stage != 3:
            raise ValueError(f"offload is for stage 3, got stage={self.stage}. Take strategy=deepspeed_zero3_offload.")


@schema
class StrategyConfig:
    kind: Literal["single", "ddp", "deepspeed"]
    """single: one device. ddp: replicas with all-reduced gradients (NCCL on GPUs, gloo on CPUs). deepspeed: ZeRO."""
    zero: ZeroConfig | None = None

    def __post_init__(self) -> None:
        if (self.kind == "deepspeed") != (self.zero is not None):
            raise ValueError(
                "the zero settings belong to kind=deepspeed, and only to it. Choose a whole strategy, such as "
                "strategy=deepspeed_zero2."
            )

    @property
    def partitions_parameters(self) -> bool:
        """Whether no rank ever holds the whole model."""
        return self.zero is not None and self.zero.stage == 3


@schema
class AcceleratorConfig:
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """auto: bf16 autocast where the hardware has it, else float32."""


@schema
class DeviceConfig(AcceleratorConfig):
    devices: Count | None = None
    """Devices per node; null: as many as torchrun or srun started processes there, without a launcher 1."""
    num_nodes: Count | None = None
    """null: as many as the launcher uses, without one 1."""

    @property
    def devices_per_node(self) -> int:
        launched = launch()
        return self.devices or (launched.per_node if launched else 1)

    @property
    def nodes(self) -> int:
        launched = launch()
        return self.num_nodes or (launched.nodes if launched else 1)

    @property
    def world_size(self) -> int:
        return self.devices_per_node * self.nodes


@schema
class TrainerConfig(DeviceConfig):
    max_epochs: Count
    max_steps: int = -1
    """Optimizer steps after which the run ends even inside an epoch; -1 is no limit."""
    val_every_epochs: Count = 1
    log_every_steps: Count = 50

    def __post_init__(self) -> None:
        if self.max_steps != -1 and self.max_steps < 1:
            raise ValueError(f"max_steps must be positive, or -1 for no limit; got {self.max_steps}")


@schema
class LoggerConfig:
    kind: Literal["wandb", "csv", "none"]
    wandb: WandbConfig | None = None

    def __post_init__(self) -> None:
        if (self.kind == "wandb") != (self.wandb is not None):
            raise ValueError("the wandb settings belong to logger=wandb, and only to it")


@schema
class CallbacksConfig:
    checkpoint: CheckpointConfig
    stability: StabilityConfig
    heartbeat: HeartbeatConfig
    ema_decay: Decay | None = None
    """What an exponential moving average of the weights keeps of itself at each step, 0.9999 in long runs. It is what
    is validated and saved in encoder/; the weights train on without it. null: none."""


@schema
class RunConfig:
    optim: OptimConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    strategy: StrategyConfig
    logger: LoggerConfig
    resolution: Count | tuple[Count, Count]
    """Side of the images in pixels, or [height, width]; the attention window grows with it."""
    window: Count | tuple[Count, Count] | None
    """Attention window in tokens; null derives it from the resolution, an explicit one is checked."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    recompute: Recompute | tuple[Recompute, ...]
    """What runs again in the backward pass, one policy or one per stage: selective norms and GELU, full whole blocks
    (least memory, about a third more time)."""
    attention: Attention
    """Core of window attention; auto chooses by device, chunked keeps no N x N tensor anywhere."""
    chunk: Count | tuple[Annotated[int, Field(ge=0)], ...] | None
    """Windows at a time for the chunked core, one number or one per stage (0: as the core likes); null: by device."""
    compile: bool
    """torch.compile each shape of block once; the first steps then take minutes."""
    global_batch_size: Count
    """Images per optimizer step over all devices; gradient accumulation follows from it."""
    batch_size: Count
    """Images per device and forward pass."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    resume: str | None
    """auto continues the newest checkpoint of output_dir, a path continues that one, null starts anew."""
    allow_drift: tuple[str, ...]
    """Settings that may differ from the resumed checkpoint's, beside those that always may (training/drift.py)."""
    output_dir: str
    callbacks: CallbacksConfig
    ckpt: str | None
    """Encoder folder or run directory whose weights start the run; null starts from scratch."""

    def __post_init__(self) -> None:
        for name in ("output_dir", "ckpt", "resume"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty. Add {name}=PATH" + (", or null." if name != "output_dir" else "."))
        if self.callbacks.ema_decay is not None and self.strategy.zero is not None:
            raise ValueError(
                f"callbacks.ema_decay does not work under ZeRO-{self.strategy.zero.stage}: "
                + ("no rank holds the whole weights to average. " if self.strategy.zero.stage == 3 else "")
                + "DeepSpeed writes and reads the weights by itself, so a resumed run would lose the average. Add "
                "callbacks.ema_decay=null, or take strategy=ddp where the model fits."
            )
        if self.compile and self.strategy.kind == "deepspeed":
            raise ValueError(
                "compile=true does not work under DeepSpeed, whose hooks change what torch has compiled. "
                "Add compile=false, or take strategy=ddp where the model fits."
            )

    def encoder_options(self) -> dict[str, Any]:
        """Arguments of SwinV2 and load_encoder beside the architecture."""
        names = ("resolution", "window", "drop_path", "recompute", "attention", "chunk")
        return {name: getattr(self, name) for name in names}
