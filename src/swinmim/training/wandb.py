"""Weights & Biases: the same run after a resume, offline without key or network. No other file uses wandb."""

import logging
import os
import re
import secrets
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger
from wandb.errors import Error as WandbError

from swinmim.outside import brief, read_regular
from swinmim.paths import shell_quoted
from swinmim.training.settings import WandbConfig

log = logging.getLogger(__name__)


def build_wandb(config: WandbConfig, output_dir: Path, settings: dict[str, Any]) -> WandbLogger:
    """Start or continue the W&B run of an output directory, which keeps the run id in `wandb_run_id`.

    settings: the typed configuration, stored as the run's config.
    """
    id_file = output_dir / "wandb_run_id"
    run_id = _run_id(id_file)
    arguments: dict[str, Any] = {
        "project": config.project,
        "entity": config.entity,
        "name": config.name or output_dir.name,
        "tags": list(config.tags),
        "dir": str(output_dir),
        "id": run_id,
        "resume": "allow",
        "config": settings,
    }
    logging.getLogger("wandb").setLevel(logging.WARNING)
    wanted = os.environ.get("WANDB_MODE", config.mode)
    mode: Literal["online", "offline", "disabled"] = (
        "online" if wanted == "online" else "disabled" if wanted == "disabled" else "offline"
    )
    try:
        if mode == "online" and not wandb.login(prompt=False):
            log.warning("Weights & Biases: no API key (wandb login, or WANDB_API_KEY), so this run is logged offline.")
            mode = "offline"
        run = wandb.init(mode=mode, settings=_settings(), **arguments)
    except WandbError as error:  # a refused key or an unreachable server must not cost the run
        log.warning("Weights & Biases cannot be used (%s), so this run is logged offline.", str(error).splitlines()[0])
        mode = "offline"
        run = wandb.init(mode=mode, settings=_settings(), **arguments)
    draft = id_file.with_name(f".{id_file.name}.partial")
    draft.unlink(missing_ok=True)
    draft.write_text(run_id)
    draft.replace(id_file)
    run.define_metric("samples_seen")
    run.define_metric("*", step_metric="samples_seen")
    if mode == "offline":
        log.info(
            "Weights & Biases: logging offline; sync later with: wandb sync %s", shell_quoted(Path(run.dir).parent)
        )
    return WandbLogger(experiment=run, save_dir=str(output_dir))


def _run_id(file: Path) -> str:
    """That of the run which is continued; a new one where there is none, or what stands there is none."""
    try:
        found = read_regular(file, 100).decode().strip()
        if re.fullmatch(r"[\w-]{1,64}", found, re.ASCII):
            return found
        why = f"holds {brief(found)}"
    except FileNotFoundError:
        return secrets.token_hex(4)
    except (OSError, ValueError) as error:  # no text among them
        why = str(error)
    log.warning("Weights & Biases: %s is no id of a run (it %s), so a new run begins.", file, why)
    return secrets.token_hex(4)


def _settings() -> wandb.Settings:
    return wandb.Settings(init_timeout=30, console="off", silent=True, disable_code=True, disable_git=True)


def finish_wandb() -> None:
    """Close the run of this process, so that the next one of a sweep starts its own."""
    wandb.finish()
