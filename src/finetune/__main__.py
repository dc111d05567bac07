"""`python -m finetune`: supervised training on top of a pretrained encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinmim.errors import one_line_at_interrupt

if TYPE_CHECKING:
    from pathlib import Path

    from finetune.config import FinetuneConfig


def start(config: FinetuneConfig, output_dir: Path) -> None:
    """Run. torch and Lightning are loaded here: a mistake in the settings gets its answer without them."""
    from finetune.run import run

    run(config, output_dir)


def main() -> None:
    with one_line_at_interrupt("finetune"):
        from finetune.config import FinetuneConfig
        from swinmim.door import open_door

        open_door("finetune", FinetuneConfig, start)


if __name__ == "__main__":
    main()
