"""What changed in the settings between a checkpoint and the run that continues it."""

import json
import logging
from collections.abc import Mapping, Sequence

from swinmim.config import nearest
from swinmim.errors import ConfigError

log = logging.getLogger(__name__)

FREE = (
    "allow_drift",
    "attention",
    "batch_size",
    "callbacks.checkpoint",
    "callbacks.reconstructions",
    "chunk",
    "compile",
    "data.allow_insecure",
    "data.cache_bytes",
    "data.cache_dir",
    "data.max_bad_fraction",
    "data.num_workers",
    "data.path",
    "logger",
    "output_dir",
    "recompute",
    "resume",
    "strategy",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_steps",
    "trainer.num_nodes",
    "trainer.val_every_epochs",
)
"""Keys and groups that may change on resume: they decide where and how fast a run computes and what it shows, not what.
The samples are compared by their fingerprint, so data.path may move; docs/checkpoints.md gives the reasons."""

ABSENT = "(absent)"


def differences(then: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Dotted key -> (value then, value now) of all leaves that differ; lists are leaves."""
    before, after = _leaves(_plain(then)), _leaves(_plain(now))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def check_drift(then: Mapping[str, object], now: Mapping[str, object], allowed: Sequence[str]) -> None:
    """Refuse to continue a run with settings that make it another one; report the changes that are allowed.

    Args:
        then: settings stored with the checkpoint.
        now: settings of this run.
        allowed: `allow_drift`, keys that may change this time.

    Raises:
        ConfigError: a change that is neither free nor allowed, or an entry of `allowed` without effect.
    """
    changed = differences(then, now)
    refused = [key for key in changed if not is_free(key) and key not in allowed]
    earlier = then.get("allow_drift") or ()  # a requeued job repeats its command when the change is in the checkpoint
    assert isinstance(earlier, Sequence)
    idle = [key for key in allowed if (key not in changed or is_free(key)) and key not in earlier]
    if refused:
        raise ConfigError(
            "resume: these settings are not those of the checkpoint (checkpoint -> now):"
            + "".join(f"\n  {line}" for line in _lines(changed, refused))
            + f"\nSet them back, or add allow_drift=[{','.join([*allowed, *refused])}] to change them on purpose."
        )
    if idle:
        hint = nearest(idle[0], [key for key in changed if not is_free(key)])
        raise ConfigError(
            f"allow_drift: {', '.join(idle)} did not change since the checkpoint, or may always change.{hint} "
            f"Remove {'it' if len(idle) == 1 else 'them'}."
        )
    if changed:
        log.info(
            "resume: changed since the checkpoint (checkpoint -> now)\n  %s", "\n  ".join(_lines(changed, changed))
        )


def is_free(key: str) -> bool:
    """Whether a setting may change on resume without being named."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _lines(changed: Mapping[str, tuple[object, object]], keys: Sequence[str] | Mapping[str, object]) -> list[str]:
    return [f"{key}: {_shown(changed[key][0])} -> {_shown(changed[key][1])}" for key in keys]


def _shown(value: object) -> str:
    return ABSENT if value is ABSENT else json.dumps(value)


def _plain(settings: Mapping[str, object]) -> dict[str, object]:
    """As a JSON file would give it back: tuples are lists."""
    plain: dict[str, object] = json.loads(json.dumps(settings))
    return plain


def _leaves(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    leaves: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
