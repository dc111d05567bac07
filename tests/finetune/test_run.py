from types import SimpleNamespace

import pytest

from finetune.run import require_augmentable
from swinmim.errors import ConfigError


@pytest.mark.parametrize(("channels", "bits"), [(5, 8), (3, 16), (1, 16)])
def test_randaugment_of_other_channels_is_refused_with_settings_that_work(channels, bits):
    shards = SimpleNamespace(channels=channels, bits=bits)
    with pytest.raises(ConfigError, match=rf"{channels} of {bits}\. Add task\.randaug_ops=0 task\.randaug_magnitude=0"):
        require_augmentable(SimpleNamespace(randaug_ops=2), shards)
    require_augmentable(SimpleNamespace(randaug_ops=0), shards)
    require_augmentable(SimpleNamespace(randaug_ops=2), SimpleNamespace(channels=1, bits=8))
