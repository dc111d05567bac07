import numpy as np
import pytest
import torch
import whole_runs
from PIL import Image


@pytest.fixture(scope="session")
def made_images(tmp_path_factory):
    """96 pictures of coloured slopes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 32)
    for index in range(96):
        low, high = rng.integers(0, 255, (2, 3))
        slope = (ramp[:, None] if index % 2 else ramp[None]).repeat(32, axis=index % 2)[..., None]
        Image.fromarray((low + (high - low) * slope).astype(np.uint8)).save(root / f"{index:03d}.png")
    return root


@pytest.fixture(scope="session")
def start(made_images, tmp_path_factory):
    """Start a whole run; every one of a session reads the same shards."""
    cache = tmp_path_factory.mktemp("cache")

    def begin(output_dir, *overrides, **options):
        return whole_runs.Run(output_dir, f"data.path={made_images}", f"data.cache_dir={cache}", *overrides, **options)

    return begin


@pytest.fixture(scope="session")
def whole(start, tmp_path_factory):
    """The run that nothing happens to: its losses and last weights, by number of processes."""
    done = {}

    def run(world=1):
        if world not in done:
            output_dir = tmp_path_factory.mktemp("whole") / "run"
            whole_run = start(output_dir, world=world)
            assert whole_run.wait() == [0] * world, whole_run.text()
            done[world] = (whole_runs.losses(output_dir), whole_runs.weights(output_dir))
        return done[world]

    return run


@pytest.fixture
def same_end(whole):
    """Checks that an interrupted and resumed run has the losses and the last weights of the whole one.

    `repeated` steps come twice: those after the checkpoint.
    """

    def check(output_dir, world=1, repeated=0):
        expected, final = whole(world)
        last = whole_runs.last_losses(output_dir)
        assert 0 < len(last) < len(expected)
        assert last == expected[-len(last) :]
        assert len(whole_runs.losses(output_dir)) == len(expected) + repeated
        found = whole_runs.weights(output_dir)
        assert all(torch.equal(tensor, found[name]) for name, tensor in final.items())

    return check
