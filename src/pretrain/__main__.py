"""`python -m pretrain`: self-supervised pretraining by masked image modelling."""

from pretrain.config import PretrainConfig
from pretrain.run import run
from swinmim.door import open_door


def main() -> None:
    open_door("pretrain", PretrainConfig, run)


if __name__ == "__main__":
    main()
