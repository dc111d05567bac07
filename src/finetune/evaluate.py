"""`python -m finetune.evaluate`: how good a trained task model is, on any labelled images, at several resolutions."""

from swinmim.errors import one_line_at_interrupt


def main() -> None:
    with one_line_at_interrupt("evaluate"):
        from finetune.apply.config import EvaluateConfig
        from swinmim.door import lazily, open_door

        open_door("evaluate", EvaluateConfig, lazily("finetune.apply.evaluation"))


if __name__ == "__main__":
    main()
