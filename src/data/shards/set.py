"""What the rest of the program asks of a set of samples."""

from typing import TYPE_CHECKING, NamedTuple

from swinmim.errors import DataError

if TYPE_CHECKING:
    from data.shards.local import ShardSet


class Record(NamedTuple):
    """One sample as it lies in the tar."""

    key: str
    data: bytes
    suffix: str
    label: int
    shard: str


def require_labels(shards: "ShardSet") -> "ShardSet":
    """The set itself, when every sample has a label.

    Raises:
        DataError: otherwise.
    """
    if not shards.classes or len(shards) == 0 or int(shards.labels.min()) < 0:
        raise DataError(
            f"finetune needs labels; {shards.path} has none for some or all images. Put each image into a folder named"
            " after its class: DIR/cat/1.jpg, DIR/dog/2.jpg."
        )
    return shards
