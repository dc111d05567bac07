"""What a sample is to be learnt from, beside one class number: a member of the tar next to the image."""

from typing import Literal

TargetKind = Literal["labels", "value", "mask", "boxes"]
"""labels: any number of classes; value: numbers; mask: a class for each pixel; boxes: objects and where they are."""

MEMBERS: dict[TargetKind, str] = {
    "labels": "labels.json",
    "value": "value.json",
    "mask": "mask.png",
    "boxes": "boxes.json",
}
"""What the member is called, after the key."""
