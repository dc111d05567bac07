"""Mean and deviation for normalisation."""

from data.codecs.statistics import IMAGENET_MEAN as IMAGENET_MEAN
from data.codecs.statistics import IMAGENET_STD as IMAGENET_STD
from data.config import DataConfig
from data.shards.set import SampleSet
from data.shards.streamed import StreamSet
from swinmim.errors import ConfigError

Stats = tuple[tuple[float, ...], tuple[float, ...]]


def check_stats(config: DataConfig, channels: int) -> None:
    """Whether `data.stats` is of so many channels, those of the network and of its set, before any image is packed.

    Raises:
        ConfigError: they are of another number.
    """
    match config.stats:
        case "imagenet" if channels != 3:
            raise ConfigError(f"data.stats=imagenet has 3 channels, the set has {channels}. Add data.stats=auto.")
        case (mean, _) if len(mean) != channels:
            raise ConfigError(
                f"data.stats lists {len(mean)} channels, the set has {channels}. List one mean and one deviation for"
                " each, or add data.stats=auto."
            )


def resolve_stats(config: DataConfig, shards: SampleSet | StreamSet, encoder_stats: Stats | None = None) -> Stats:
    """Per-channel mean and standard deviation in 0..1 units.

    Args:
        config: `data.stats` chooses.
        shards: set whose own statistics `auto` takes.
        encoder_stats: those a pretrained encoder was trained with; `auto` prefers them.

    Raises:
        ConfigError: the statistics asked for are of another number of channels.
    """
    check_stats(config, shards.channels)
    match config.stats:
        case "imagenet":
            return IMAGENET_MEAN, IMAGENET_STD
        case "auto":
            return encoder_stats or (tuple(shards.mean), tuple(shards.std))
        case (mean, std):
            return mean, std
