"""What changed in the settings between a checkpoint and the run that continues it."""

import json
import logging
import re
from collections.abc import Mapping, Sequence

from swinmim.errors import ConfigError
from swinmim.models.errors import nearest

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
    "data.max_pixels",
    "data.mix.path",
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

GONE = ("data.streaming",)
"""Keys that only older checkpoints have, and whose meaning others hold: streaming_samples says whether it streams."""

NEW = ("schedule.milestone_shares", "schedule.warmup_share")
"""Keys that older checkpoints lack. Where they count now, the lengths that counted then are gone, and named."""

OFF = {"callbacks.ema_decay": None, "task.class_weights": "none"}
"""Keys that older checkpoints lack, and the values that mean what was done then."""

ORDER = ("data.labels_per_class", "data.lanes", "data.mix", "data.val_ratio", "global_batch_size", "seed")
"""Keys that the order of the samples depends on: the data refuse to go on with others, even where they are allowed."""

ABSENT = "(absent)"
LINES = 200
"""Of differences in one message; a checkpoint may come from others."""


def differences(then: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Dotted key -> (value then, value now) of all leaves that differ; lists are leaves, unless they hold groups."""
    # as a JSON file would give them back: tuples are lists
    before, after = (_leaves(json.loads(json.dumps(settings))) for settings in (then, now))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def check_drift(then: Mapping[str, object], now: Mapping[str, object], allowed: Sequence[str]) -> None:
    """Refuse to continue a run with settings that make it another one; report the changes that are allowed.

    then, now: settings stored with the checkpoint, and of this run. allowed: `allow_drift`.

    Raises ConfigError: a change that is neither free nor allowed, or an entry of `allowed` without effect.
    """
    changed = {
        key: (old, new)
        for key, (old, new) in differences(then, now).items()
        if key not in GONE and not (old == ABSENT and (key in NEW or (key in OFF and new == OFF[key])))
    }
    refused = [key for key in changed if not is_free(key) and key not in allowed]
    earlier = then.get("allow_drift")  # a requeued job repeats its command when the change is in the checkpoint
    earlier = earlier if isinstance(earlier, list | tuple) else ()
    idle = [key for key in allowed if (key not in changed or is_free(key)) and key not in earlier]
    if refused:
        fixed = [key for key in refused if _is_in(key, ORDER)]
        if fixed:
            way = (
                f"Set them back: a run keeps the order of its samples, which depends on {', '.join(fixed)}. To change"
                " that, start a new run from its weights (ckpt=...)."
            )
        else:
            way = f"Set them back, or add allow_drift=[{','.join([*allowed, *refused])}] to change them on purpose."
        raise ConfigError(
            "resume: these settings are not those of the checkpoint (checkpoint -> now):"
            + "".join(f"\n  {line}" for line in _lines(changed, refused))
            + f"\n{way}"
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
    return _is_in(key, FREE)


def _is_in(key: str, names: Sequence[str]) -> bool:
    """Whether a key, or that of a group around it, is among the names, which leave out the numbers in a list."""
    key = re.sub(r"\.\d+(?=\.)", "", key)
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _lines(changed: Mapping[str, tuple[object, object]], keys: Sequence[str] | Mapping[str, object]) -> list[str]:
    lines = [f"{key[:100]}: {_shown(changed[key][0])} -> {_shown(changed[key][1])}" for key in [*keys][:LINES]]
    return lines + ([f"and {len(keys) - LINES} more"] if len(keys) > LINES else [])


def _shown(value: object) -> str:
    text = ABSENT if value is ABSENT else json.dumps(value)
    return text if len(text) <= 300 else text[:297] + "..."


def _leaves(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    leaves: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
