"""The images of a source in their stored form, encoded by several processes and handed back in the order of asking."""

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray

from data.codecs.decode import DecodeError
from data.codecs.encode import EncodeOptions, Outcome, encode, stored_clip
from data.processes import cores, end_with_parent
from data.sources.source import Source
from data.write.plan import dealt
from data.write.targets import fitted
from swinmim.errors import DataError

# What travels to a process at once, by the size of the source files: enough that the way costs nothing, little enough
# that all processes end together.
_CHUNK_IMAGES, _CHUNK_BYTES = 32, 2_000_000
_WAITING = 4  # chunks per process that are encoded ahead of the writer
_WORTH_A_PROCESS = 64  # images; a process takes half a second to start


def encode_item(source: Source, position: int, options: EncodeOptions) -> Outcome:
    """Read and encode item `position` of a source, with its target."""
    try:
        data = source.load(position)
        done = stored_clip(data) if source.clips else encode(data, options)
        if source.target is None:
            return done
        target = fitted(source.target, source.load_target(position), len(source.classes), done)
        return replace(done, target=target)
    except (DecodeError, OSError) as error:
        return str(error)


class _Process:
    """What an encoder process holds."""

    source: Source
    options: EncodeOptions
    reading: "SynchronizedArray[int]"
    place: int

    @classmethod
    def start(
        cls,
        source: Source,
        options: EncodeOptions,
        reading: "SynchronizedArray[int]",
        started: "Synchronized[int]",
    ) -> None:
        cls.source, cls.options, cls.reading = source, options, reading
        with started.get_lock():
            cls.place, started.value = started.value, started.value + 1
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it, once
        end_with_parent()

    @classmethod
    def encode(cls, positions: Sequence[int]) -> list[Outcome]:
        found = []
        for position in positions:
            cls.reading[cls.place] = position + 1
            found.append(encode_item(cls.source, position, cls.options))
        cls.reading[cls.place] = 0
        return found


def encoded(
    source: Source, positions: Sequence[int], options: EncodeOptions, workers: int
) -> Generator[Outcome, None, None]:
    """The items at these positions, in their order.

    `workers` are processes; 0 for one per core, and none where they would start for longer than they work.

    Raises:
        DataError: a process died; names the images of which it was reading one.
    """
    chunks = dealt(source.items, positions, _CHUNK_IMAGES, _CHUNK_BYTES)
    workers = min(workers or min(cores(), len(positions) // _WORTH_A_PROCESS), len(chunks))
    if workers <= 1:
        return (encode_item(source, position, options) for position in positions)
    return _by_processes(source, chunks, options, workers)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off an interrupt; processes that are started here never see one."""
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    main = threading.current_thread() is threading.main_thread()
    # Another thread may still take the signal, and Python would answer it in this one.
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number)) if main else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _by_processes(
    source: Source, chunks: list[list[int]], options: EncodeOptions, workers: int
) -> Generator[Outcome, None, None]:
    # Fresh processes: a fork of a program with threads (torch, progress bars) may hang.
    context = multiprocessing.get_context("spawn")
    reading = context.Array("q", workers)
    pool = ProcessPoolExecutor(workers, context, _Process.start, (source, options, reading, context.Value("q", 0)))
    ahead: deque[Future[list[Outcome]]] = deque()
    try:
        for number in count():
            if number < len(chunks):
                with _undisturbed():  # it may start a process
                    ahead.append(pool.submit(_Process.encode, chunks[number]))
                if len(ahead) < workers * _WAITING:
                    continue
            if not ahead:
                return
            yield from ahead.popleft().result()
    except BrokenProcessPool as error:
        names = [source.items[place - 1].name for place in reading[:] if place > 0]
        raise DataError(
            f"An encoder process died (mostly too little memory, or a fault in a decoder). The image is one of these:"
            f" {', '.join(names) or 'unknown'}. Take it out, or try --workers 1, which needs the least memory."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
