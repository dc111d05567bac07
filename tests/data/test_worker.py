import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from data.worker import heed_only_the_parent

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def work(ready):
    heed_only_the_parent(0)
    ready.set()
    time.sleep(60)


def test_strangers_cannot_end_a_loader_and_its_parent_can():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=work, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(10)
    for name in ("TERM", "USR1", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(10)
    assert worker.exitcode == 0
