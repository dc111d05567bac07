"""Mean and deviation for normalisation."""

from data.config import DataConfig
from data.shards.set import SampleSet
from data.shards.streamed import StreamSet
from swinmim.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Stats = tuple[tuple[float, ...], tuple[float, ...]]


def resolve_stats(config: DataConfig, shards: SampleSet | StreamSet, encoder_stats: Stats | None = None) -> Stats:
    """Per-channel mean and standard deviation in 0..1 units.

    Args:
        config: `data.stats` chooses.
        shards: set whose own statistics `auto` takes.
        encoder_stats: those a pretrained encoder was trained with; `auto` prefers them.

    Raises:
        ConfigError: the statistics asked for are of another number of channels.
    """
    match config.stats:
        case "imagenet":
            if shards.channels != 3:
                raise ConfigError(
                    f"data.stats=imagenet has 3 channels, the set has {shards.channels}. Add data.stats=auto."
                )
            return IMAGENET_MEAN, IMAGENET_STD
        case "auto":
            return encoder_stats or (tuple(shards.mean), tuple(shards.std))
        case (mean, std):
            if len(mean) != shards.channels:
                raise ConfigError(
                    f"data.stats lists {len(mean)} channels, the set has {shards.channels}. List one mean and one"
                    " deviation for each, or add data.stats=auto."
                )
            return mean, std
