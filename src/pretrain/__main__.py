"""`python -m pretrain`: self-supervised pretraining by masked image modelling."""

from pathlib import Path

from pretrain.config import PretrainConfig
from swinmim.door import open_door


def start(config: PretrainConfig, output_dir: Path) -> None:
    """Run. Lightning is loaded here and not above: a mistake in the settings gets its answer without it."""
    from pretrain.run import run

    run(config, output_dir)


def main() -> None:
    open_door("pretrain", PretrainConfig, start)


if __name__ == "__main__":
    main()
