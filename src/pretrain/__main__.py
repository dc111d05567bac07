"""`python -m pretrain`: self-supervised pretraining by masked image modelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinmim.errors import one_line_at_interrupt

if TYPE_CHECKING:
    from pathlib import Path

    from pretrain.config import PretrainConfig


def start(config: PretrainConfig, output_dir: Path) -> None:
    """Run. torch and Lightning are loaded here: a mistake in the settings gets its answer without them."""
    from pretrain.run import run

    run(config, output_dir)


def main() -> None:
    with one_line_at_interrupt("pretrain"):
        from pretrain.config import PretrainConfig
        from swinmim.door import open_door

        open_door("pretrain", PretrainConfig, start)


if __name__ == "__main__":
    main()
