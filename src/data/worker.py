"""What a loader process does with signals: its own run decides when it ends, not whoever signals everyone."""

import os
import signal
import threading


def heed_only_the_parent(worker: int) -> None:
    """Ignore SIGUSR1, and SIGTERM unless the process that started this one sends it; end by SIGALRM, whatever that
    process does with it. A `worker_init_fn`.

    Schedulers signal every process of a job. The ranks answer with a last checkpoint and need their loaders for the
    steps until then; torch's own handler would end a loader at once, and with it the run.
    """
    del worker
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_the_parent, name="sigterm", daemon=True).start()


def _wait_for_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
