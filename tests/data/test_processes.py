import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from data.processes import heed_only_the_parent

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.slow
def test_strangers_cannot_end_a_loader_and_its_parent_can(method):
    pool = ProcessPoolExecutor(1, multiprocessing.get_context(method), heed_only_the_parent, (0,))
    worker = pool.submit(os.getpid).result()
    for name in ("TERM", "USR1", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker)], check=True)
    time.sleep(0.3)
    assert pool.submit(os.getpid).result() == worker
    os.kill(worker, signal.SIGTERM)
    assert ends(worker)
    pool.shutdown()


def ends(pid):
    late = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < late:
        time.sleep(0.05)
    return gone(pid)


RUN = """
import multiprocessing, os, sys, time
from torch.utils.data import DataLoader, get_worker_info
from data.processes import heed_only_the_parent

class Numbers:
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return os.getpid()

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    loader = DataLoader(Numbers(), num_workers=1, worker_init_fn=heed_only_the_parent, persistent_workers=True)
    batches = iter(loader)
    print(int(next(batches)), flush=True)
    time.sleep(float(sys.argv[2]))
    os.close(1)
"""


def run(folder, method, seconds):
    (folder / "run.py").write_text(RUN)
    process = subprocess.Popen(
        [sys.executable, str(folder / "run.py"), method, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def gone(pid):
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_loaders_end_with_a_run_that_is_killed_or_done(method, tmp_path):
    killed, loader = run(tmp_path, method, 60)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert ends(loader)
    done, loader = run(tmp_path, method, 0)
    assert done.stdout.read() == ""
    ended = time.monotonic()
    done.communicate(timeout=30)
    assert done.returncode == 0
    assert time.monotonic() - ended < 4  # torch waits 5 s before it ends a loader by force
    assert gone(loader)
