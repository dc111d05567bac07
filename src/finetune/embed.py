"""`python -m finetune.embed`: features of any images from an encoder."""

from swinmim.errors import one_line_at_interrupt


def main() -> None:
    with one_line_at_interrupt("embed"):
        from finetune.apply.config import EmbedConfig
        from swinmim.door import lazily, open_door

        open_door("embed", EmbedConfig, lazily("finetune.apply.embedding"))


if __name__ == "__main__":
    main()
