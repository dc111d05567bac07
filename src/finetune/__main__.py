"""`python -m finetune`: supervised training on top of a pretrained encoder."""

from swinmim.errors import one_line_at_interrupt


def main() -> None:
    with one_line_at_interrupt("finetune"):
        from finetune.config import FinetuneConfig
        from swinmim.door import lazily, open_door

        open_door("finetune", FinetuneConfig, lazily("finetune.run"))


if __name__ == "__main__":
    main()
