"""From settings to a Lightning trainer."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger

from swinmim import private
from swinmim.errors import ConfigError
from swinmim.memory import GIB, host_memory, training_bytes
from swinmim.training.launch import check_launch, check_visible, cluster_environment
from swinmim.training.settings import (
    AcceleratorConfig,
    DeviceConfig,
    LoggerConfig,
    RunConfig,
    StrategyConfig,
    TrainerConfig,
)
from swinmim.training.state_io import StateIO
from swinmim.training.strategies.build import build_strategy
from swinmim.training.wandb import build_wandb


def check_world(trainer: DeviceConfig, strategy: StrategyConfig) -> None:
    """The processes that a launcher started are those the settings ask for, and several need a strategy for them.

    Raises ConfigError: devices that are not the launcher's, strategy=single with more than one device, or DeepSpeed
    without a GPU.
    """
    check_launch(trainer.devices_per_node, trainer.nodes, explicit=trainer.devices is not None)
    check_visible(trainer.accelerator, trainer.devices_per_node)
    if strategy.kind == "single" and trainer.world_size > 1:
        raise ConfigError(
            f"strategy=single uses one device, but trainer.devices={trainer.devices_per_node} and "
            f"trainer.num_nodes={trainer.nodes} ask for {trainer.world_size}. Add strategy=ddp."
        )
    if strategy.kind == "deepspeed" and not uses_gpu(trainer.accelerator):
        raise ConfigError(
            "strategy=deepspeed_* runs on CUDA GPUs, and this run is on the CPU. Take strategy=single or strategy=ddp "
            "here; an encoder folder from either strategy is the same."
        )


def uses_gpu(accelerator: str) -> bool:
    """Whether a run with this setting would be on a GPU of this machine."""
    return accelerator != "cpu" and torch.cuda.is_available()


def only_device(accelerator: str) -> torch.device:
    """The device of a run of one process, as Lightning would choose it."""
    if uses_gpu(accelerator):
        return torch.device("cuda", 0)
    return torch.device("mps" if accelerator != "cpu" and torch.backends.mps.is_available() else "cpu")


def check_memory(num_parameters: int, trainer: TrainerConfig, strategy: StrategyConfig) -> None:
    """Stop before anything is allocated when not even the training states fit; ZeRO divides them over the ranks.

    Raises ConfigError: with what the model needs and what the device has.
    """
    zero = strategy.zero
    if uses_gpu(trainer.accelerator) and not (zero and zero.offload):
        where, has = "this GPU", torch.cuda.mem_get_info()[1]
    else:
        where, has = "this machine", host_memory()
    needs = training_bytes(num_parameters, zero_stage=zero.stage if zero else 0, world_size=trainer.world_size)
    if zero and zero.offload:
        needs *= trainer.devices_per_node  # the states of all devices of a node lie in its memory
    if needs > has:
        raise ConfigError(
            f"the model does not fit: {num_parameters / 1e6:,.0f}M parameters need {needs / GIB:.1f} GiB for weights, "
            f"gradients and AdamW moments ({needs / num_parameters:.3g} bytes each), {where} has {has / GIB:.1f} GiB. "
            "Divide them over more GPUs (strategy=deepspeed_zero2 or _zero3), choose a smaller model, or add debug=toy "
            "to try the same code path at toy width."
        )


def resolve_precision(config: AcceleratorConfig) -> str:
    """The precision that `auto` stands for on this machine: bf16 where matrix products in it are native."""
    if config.precision != "auto":
        return config.precision
    on_gpu = uses_gpu(config.accelerator)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else private.cpu_has_bf16()
    return "bf16-mixed" if has_bf16 else "32-true"


def build_loggers(config: LoggerConfig, output_dir: Path, settings: dict[str, Any]) -> list[Logger]:
    """Loggers of rank 0. settings: the typed configuration, stored with a W&B run."""
    match config.kind:
        case "wandb":
            assert config.wandb is not None
            return [build_wandb(config.wandb, output_dir, settings)]
        case "csv":
            private.leave_clients_unloaded()
            return [CSVLogger(output_dir, name="metrics")]
        case "none":
            return []


def build_trainer(
    config: RunConfig,
    *,
    accumulation: int,
    log_every: int,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    output_dir: Path,
) -> L.Trainer:
    """The trainer of a run. Data order, sampler and checkpoints are ours, so Lightning's own are off."""
    _be_quiet()
    trainer, strategy = config.trainer, config.strategy
    precision, device = resolve_precision(trainer), only_device(trainer.accelerator)
    return L.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices_per_node,
        num_nodes=trainer.nodes,
        plugins=[cluster_environment(), StateIO()],
        strategy=build_strategy(strategy, device=device, bf16=precision == "bf16-mixed", batch_size=config.batch_size),
        precision="32-true" if strategy.kind == "deepspeed" else precision,  # type: ignore[arg-type]
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=config.optim.clip_grad_norm,
        check_val_every_n_epoch=trainer.val_every_epochs,
        log_every_n_steps=log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        logger=list(loggers),
        default_root_dir=output_dir,
    )


def build_evaluator(devices: DeviceConfig, *, batch_size: int, output_dir: Path) -> L.Trainer:
    """A trainer that only validates, replicated over the devices.

    batch_size: images per device and forward pass. Raises ConfigError as `check_world`.
    """
    strategy = StrategyConfig(kind="single" if devices.world_size == 1 else "ddp")
    check_world(devices, strategy)
    _be_quiet()
    precision, device = resolve_precision(devices), only_device(devices.accelerator)
    return L.Trainer(
        accelerator=devices.accelerator,
        devices=devices.devices_per_node,
        num_nodes=devices.nodes,
        plugins=[cluster_environment()],
        strategy=build_strategy(strategy, device=device, bf16=precision == "bf16-mixed", batch_size=batch_size),
        precision=precision,  # type: ignore[arg-type]
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        default_root_dir=output_dir,
    )


def _be_quiet() -> None:
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
