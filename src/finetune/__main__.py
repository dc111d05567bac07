"""`python -m finetune`: supervised training on top of a pretrained encoder."""

from finetune.config import FinetuneConfig
from finetune.run import run
from swinmim.door import open_door


def main() -> None:
    open_door("finetune", FinetuneConfig, run)


if __name__ == "__main__":
    main()
