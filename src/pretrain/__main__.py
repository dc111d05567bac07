"""`python -m pretrain`: self-supervised pretraining by masked image modelling."""

from swinmim.errors import one_line_at_interrupt


def main() -> None:
    with one_line_at_interrupt("pretrain"):
        from pretrain.config import PretrainConfig
        from swinmim.door import lazily, open_door

        open_door("pretrain", PretrainConfig, lazily("pretrain.run"))


if __name__ == "__main__":
    main()
