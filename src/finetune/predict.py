"""`python -m finetune.predict`: the answers of a trained task model about any images."""

from swinmim.errors import one_line_at_interrupt


def main() -> None:
    with one_line_at_interrupt("predict"):
        from finetune.apply.config import PredictConfig
        from swinmim.door import lazily, open_door

        open_door("predict", PredictConfig, lazily("finetune.apply.prediction"))


if __name__ == "__main__":
    main()
