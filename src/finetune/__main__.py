"""`python -m finetune`: supervised training on top of a pretrained encoder."""

from pathlib import Path

from finetune.config import FinetuneConfig
from swinmim.door import open_door


def start(config: FinetuneConfig, output_dir: Path) -> None:
    """Run. Lightning is loaded here and not above: a mistake in the settings gets its answer without it."""
    from finetune.run import run

    run(config, output_dir)


def main() -> None:
    open_door("finetune", FinetuneConfig, start)


if __name__ == "__main__":
    main()
