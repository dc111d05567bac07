"""How loader processes start, and what they do with signals: their own run ends them, not whoever signals everyone."""

import errno
import multiprocessing
import os
import resource
import signal
import threading
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess

from swinmim.errors import DataError, limit_of
from swinmim.outside import make_logs_printable

_SIGNALS = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}


_FILES = 65_536


def _check_files(workers: int) -> None:
    """Let this process have more files open, as far as it may, and see that it can live with so many loader processes.

    Raises DataError.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    if soft > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    if soft < 64 + 8 * workers:  # measured: four of them need 90
        raise DataError(str(limit_of(OSError(errno.EMFILE, ""))))


def heed_only_the_parent(worker: int) -> None:
    """Ignore SIGHUP, SIGUSR1, and SIGTERM unless the process that started this one sends it; end by SIGPROF, whatever
    that process does with it, and with it. A `worker_init_fn`.

    Schedulers signal every process of a job. The ranks answer with a last checkpoint and need their loaders for the
    steps until then; torch's own handler would end a loader at once, and with it the run.
    """
    del worker
    make_logs_printable()
    waits = hasattr(signal, "sigwaitinfo")  # not on macOS
    if waits:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before any thread that could take it instead
    parent = end_with_parent()
    if waits:
        threading.Thread(target=_wait_for, args=(parent,), name="sigterm", daemon=True).start()


def end_with_parent() -> int:
    """End this process when the one that started it is gone, also killed; returns that one's number.

    Not `os.getppid`, which torch watches: under the start method forkserver that is the server, and it lives on.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
    return parent.pid


def cores() -> int:
    """Those that this process may use, which a scheduler may have made fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MOST_WORKERS = 8


def default_workers(processes: int) -> int:
    """Loader processes for each of so many that share this machine: one core is left to each of them."""
    return max(1, min(MOST_WORKERS, cores() // processes - 1))


class _Spawned(SpawnProcess):
    def start(self) -> None:
        """Signals wait while the new process imports what it needs, until `heed_only_the_parent` decides."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawn(SpawnContext):
    Process = _Spawned


def worker_context(num_workers: int, fork_safe: bool) -> BaseContext | None:
    """For `DataLoader(multiprocessing_context=...)`: torch's own way, or new processes where a fork does harm.

    A forked process shares its parent's connections to servers. When it lets go of them, the parent's event loop no
    longer hears of answers, and a fetch there waits until its time is over. Raises DataError where too few files may be
    open.
    """
    if num_workers:
        _check_files(num_workers)
    return _Spawn() if num_workers and not fork_safe else None


def _wait_for(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
