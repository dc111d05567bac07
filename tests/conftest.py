"""What holds for all tests."""

import signal
from collections.abc import Iterator

import pytest

# What a shell starts in the background ignores both, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled, nothing counted: before and after the test."""
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    reset()
    counters.clear()
    yield
    reset()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cases with loader or encoder processes are slow: `make test-fast` forks nothing."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and item.callspec.params.get("workers"):
            item.add_marker(pytest.mark.slow)
