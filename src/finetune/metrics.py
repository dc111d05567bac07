"""What a task reports on the validation set."""

from torch import nn
from torchmetrics.classification import MulticlassAccuracy


def classification_metrics(num_classes: int) -> nn.ModuleDict:
    """top1, and top5 where there are more than five classes; both over all samples alike."""
    metrics = {"top1": MulticlassAccuracy(num_classes, average="micro")}
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
    return nn.ModuleDict(metrics)
