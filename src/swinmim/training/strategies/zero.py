"""DeepSpeed ZeRO: optimizer, gradients or parameters divided over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from swinmim import private
from swinmim.checkpoint import zero
from swinmim.errors import CheckpointError
from swinmim.models.swinv2 import Block
from swinmim.paths import shell_quoted
from swinmim.training.settings import ZeroConfig
from swinmim.training.strategies.base import Answers

BUCKET = 50_000_000
"""Values in one message between ranks, 0.2 GB. DeepSpeed's default of ten times that reserves 4 GB beside any model."""


def deepspeed_config(config: ZeroConfig, *, bf16: bool, batch_size: int) -> dict[str, Any]:
    """What DeepSpeed is told.

    One dtype rule for every strategy: parameters, gradients and AdamW's moments in fp32, matrix products in bf16 by
    autocast. bf16 parameters with fp32 masters would round logit scale, position MLP and norms as well, and save little
    where the states are partitioned anyway (docs/cluster.md has the bytes).
    """
    zero: dict[str, Any] = {
        "stage": config.stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if config.stage == 3:
        # it replaces torch's linear function for the whole process, and we recompute instead of saving weights
        zero["memory_efficient_linear"] = False
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        # torch's fused AdamW runs on CPUs too, and needs no compiler on the user's machine
        "zero_force_ds_cpu_optimizer": False,
        # no module is "safe": gradients are reduced in fp32, as under DDP
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        "train_micro_batch_size_per_gpu": batch_size,
        "steps_per_print": 2**31,
    }


class ZeroStrategy(Answers, DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy with partitioned construction, safe loading and other numbers of ranks."""

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Nothing: DeepSpeed's own context would move and convert every tensor made inside, tables included."""
        yield

    def clips(self) -> bool:
        return True

    def grad_norm(self) -> float | None:
        norm = self.deepspeed_engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def goes_back(self) -> bool:
        return False

    def full_weights(self, network: nn.Module) -> dict[str, Tensor]:
        if not self.zero_stage_3:
            return network.state_dict()
        import deepspeed

        state: dict[str, Tensor] = {}
        for name, value in network.state_dict(keep_vars=True).items():
            with deepspeed.zero.GatheredParameters([value], enabled=isinstance(value, nn.Parameter)):
                if self.is_global_zero:
                    state[name] = value.detach().cpu().clone()
        return state

    def materialise(self, network: nn.Module, build: Callable[[], nn.Module]) -> None:
        """Partitioned (ZeRO-3), one module at a time.

        Rank 0 makes the whole network once in host memory and sends out module after module; device memory never holds
        more than a rank's part and one module. The first weights are those of the other strategies.
        """
        import deepspeed

        private.complete_deepspeed_config(self)
        twins = dict(build().named_modules()) if self.is_global_zero else {}
        names = {module: name for name, module in network.named_modules()}

        @torch.no_grad()
        def partition(module: nn.Module) -> None:
            module.to_empty(device=self.root_device, recurse=False)
            own = dict(module.named_parameters(recurse=False))
            if self.is_global_zero:
                for name, parameter in own.items():
                    parameter.copy_(twins[names[module]].get_parameter(name))
            if own:
                deepspeed.zero.Init(module=module, config_dict_or_path=self.config)

        network.apply(partition)
        # a block is gathered as a whole: fewer messages, and none inside what activation checkpointing runs again
        deepspeed.utils.set_z3_leaf_modules(network, [Block])

    def init_deepspeed(self) -> None:
        """Lightning's, without its warning that our clipping hook is not the one that clips."""
        assert self.lightning_module is not None
        private.start_deepspeed(self, training=self.lightning_module.trainer.training)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Lightning has divided the loss by the accumulation already; DeepSpeed must not do it again."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Only tensors and plain values are unpickled; a checkpoint of another world size must be converted first.

        Raises CheckpointError: written by another number of ranks or at another stage, or not by DeepSpeed.
        """
        folder = Path(checkpoint_path)
        saved = zero.inspect(folder)
        stage = self.config["zero_optimization"]["stage"]  # type: ignore[index]
        if saved.stage != stage:
            raise CheckpointError(
                f"{folder.parent} was written at ZeRO stage {saved.stage}, this run asks for stage {stage}. Take "
                f"strategy=deepspeed_zero{saved.stage}, or start a new run from its weights: "
                f"ckpt={shell_quoted(folder.parent)}."
            )
        universal = saved.world_size != self.world_size
        if universal and not saved.has_universal:
            raise CheckpointError(
                f"{folder.parent} was written by {saved.world_size} ranks, this run has {self.world_size}. Convert it "
                f"once: python scripts/convert_zero.py {folder.parent} --universal; or start on {saved.world_size}."
            )
        engine = self.deepspeed_engine
        groups = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
        private.load_universal(engine, universal)
        with zero.safe_loading():
            tag = zero.UNIVERSAL_TAG if universal else zero.TAG
            _, client_state = engine.load_checkpoint(folder, tag=tag, load_lr_scheduler_states=False)
        if client_state is None:
            raise CheckpointError(f"{folder} has no trainer state for this rank; resume from an older step beside it.")
        if universal:
            # at stage 3 DeepSpeed 0.19 gives every group the decay and rate of the first, and one step counter to all,
            # which a fused optimizer then advances once per group
            rates = client_state["lr_schedulers"][0]["_last_lr"]
            for group, own, rate in zip(engine.optimizer.param_groups, groups, rates, strict=True):
                group.update(own | {"lr": rate})
            for moments in engine.optimizer.optimizer.state.values():
                moments["step"] = moments["step"].clone()
        return dict(client_state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Every rank writes its part; weights and moments come from the engine."""
        state = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "optimizer_states")}
        self.deepspeed_engine.save_checkpoint(self.broadcast(filepath), client_state=state, tag=zero.TAG)
