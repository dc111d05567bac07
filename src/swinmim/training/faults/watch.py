"""Processes of a run that watch each other: one that is gone, silent or stuck ends all the others, by name, in time.

Every rank has a thread with a connection to rank 0, the hub, and tells it each second or two how far it is. The kernel
closes the connection of a killed process at once; a stopped process or a lost machine falls silent; and when nothing
has moved for long, the rank that is furthest behind is the one the others wait for. The hub then tells all ranks, and
each says why and ends with `errors.RANK_LOST`, out of whatever collective its main thread hangs in. No rank talks over
the process group, which is what hangs.

Messages are lines of JSON. The first line of a rank is the token that the hub gave to all ranks over the process group.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from swinmim.errors import RANK_LOST
from swinmim.outside import printable

GRACE_S = 10.0
"""Between the news that a rank ended with an error and the end of the others, which may be about to say the same."""


@dataclasses.dataclass
class RankState:
    """How far a rank is."""

    step: int = 0
    doing: str = "starting"
    moves: int = 0
    """Changes of `doing` so far. All ranks go through the same ones, so fewer means behind."""
    heard: float = dataclasses.field(default_factory=time.monotonic)
    moved: float = dataclasses.field(default_factory=time.monotonic)
    bye: str | None = None
    """Why it left; "" when it left as it should."""
    left: float = 0.0

    def __str__(self) -> str:
        return f"last step {self.step} ({self.doing})"


def diagnosis(states: dict[int, RankState], now: float, *, silence_s: float, stall_s: float) -> str | None:
    """Why the run cannot go on, or None. `states` holds all ranks of the run; `now` is on the clock of their `heard`.

    silence_s: a rank that was not heard of for so long is lost. stall_s: so long without a move of any rank, and the
    one furthest behind is stuck.
    """
    here = {rank: state for rank, state in states.items() if state.bye is None}
    for rank, state in states.items():
        if state.bye and now - state.left > GRACE_S:
            return f"rank {rank} ended with {state.bye}; {state}"
    for rank, state in here.items():
        if now - state.heard > silence_s:
            return f"rank {rank} has not reported for {now - state.heard:.0f} s; {state}"
    if here and now - max(state.moved for state in here.values()) > stall_s:
        behind = min(state.moves for state in here.values())
        ranks = [rank for rank, state in here.items() if state.moves == behind]
        named = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
        return f"nothing has moved for {stall_s:.0f} s; furthest behind: rank {named}, {here[ranks[0]]}"
    return None


class Watch(threading.Thread):
    """The thread of one rank. `mark` says what the main thread does; `leave` before the process ends as it should.

    silence_s, stall_s: see `diagnosis`. on_end: called before this process ends because of another one.
    """

    def __init__(
        self, rank: int, world: int, *, silence_s: float, stall_s: float, on_end: Callable[[], None] | None = None
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.rank, self.world = rank, world
        self.silence_s, self.stall_s, self.on_end = silence_s, stall_s, on_end
        self.interval = min(2.0, silence_s / 5)
        self.me = RankState()
        self.states = {self.rank: self.me}
        self.token = ""
        self._selector = selectors.DefaultSelector()
        self._peers: dict[int, socket.socket] = {}
        self._buffers: dict[socket.socket, bytes] = {}
        self._told = 0.0
        self._noted = False
        self._leaving = threading.Event()
        # A loader process that holds a copy of a connection would keep it open after this process has died.
        os.register_at_fork(after_in_child=self._forget)

    def listen(self, host: str) -> tuple[int, str]:
        """Rank 0: open the door; the port and token that the others `connect` with."""
        here = "127.0.0.1" if host in ("127.0.0.1", "localhost") else ""
        server = socket.create_server((here, 0), backlog=self.world)
        self._selector.register(server, selectors.EVENT_READ)
        self.token = secrets.token_hex(16)
        self.states |= {rank: RankState() for rank in range(self.world) if rank != self.rank}
        return int(server.getsockname()[1]), self.token

    def connect(self, host: str, port: int, token: str) -> None:
        """Another rank: join."""
        hub = socket.create_connection((host, port), timeout=self.silence_s)
        self.states[0] = RankState(doing="")
        self._peers[0] = hub
        self._hear_from(hub)
        self._send(0, {"token": token, "rank": self.rank})

    def mark(self, step: int, doing: str) -> None:
        """From the main thread: it goes on to something else. Costs a few assignments."""
        self.me.step, self.me.doing = step, doing
        self.me.moves += 1
        self.me.moved = time.monotonic()

    def leave(self, reason: str = "") -> None:
        """From the main thread: this process is about to end, with an error or as it should."""
        self.me.bye, self.me.left = reason, time.monotonic()
        self._leaving.set()
        self.join(timeout=2 * self.interval + 1)

    def run(self) -> None:
        while not self._leaving.is_set():
            if time.monotonic() - self._told > self.interval:
                self._tell()
            for key, _ in self._selector.select(min(self.interval, 0.2)):
                self._receive(key.fileobj)  # type: ignore[arg-type]
            self._judge()
        self._tell()

    # What is said and heard ------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        me = self.me
        me.heard = self._told = time.monotonic()
        for peer in list(self._peers):
            self._send(peer, {"step": me.step, "doing": me.doing, "moves": me.moves, "bye": me.bye})

    def _send(self, peer: int, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # found by the next read
            self._peers[peer].sendall(json.dumps(message).encode() + b"\n")

    def _hear_from(self, connection: socket.socket) -> None:
        connection.settimeout(1.0)
        self._buffers[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, source: socket.socket) -> None:
        if source not in self._buffers:  # the hub's door
            self._hear_from(source.accept()[0])
            return
        try:
            data = source.recv(65536)
        except TimeoutError:
            return
        except OSError:
            data = b""
        *lines, self._buffers[source] = (self._buffers[source] + data).split(b"\n")
        try:
            for line in lines:
                if source in self._buffers:  # not turned away at the line before
                    self._hear(source, json.loads(line))
        except (ValueError, KeyError, AttributeError):  # a stranger at the door
            data = b""
        if not data and source in self._buffers:
            self._close(source)

    def _hear(self, source: socket.socket, message: dict[str, Any]) -> None:
        peer = next((rank for rank, connection in self._peers.items() if connection is source), None)
        if peer is None:
            if secrets.compare_digest(str(message.get("token")), self.token):
                self._peers[int(message["rank"])] = source
            else:
                self._close(source)
            return
        if "end" in message:
            self._end(message["end"])
        if "note" in message:
            self._note(message["note"])
            return
        state, now = self.states[peer], time.monotonic()
        state.heard, state.step, state.doing = now, message["step"], message["doing"]
        if message["moves"] != state.moves:
            state.moves, state.moved = message["moves"], now
        if message["bye"] is not None and state.bye is None:
            state.bye, state.left = message["bye"], now
            if state.bye:
                self._note(f"rank {peer} ended with {state.bye}")

    def _forget(self) -> None:
        for connection in self._buffers:
            connection.close()
        self._selector.close()

    def _close(self, source: socket.socket) -> None:
        self._selector.unregister(source)
        self._buffers.pop(source)
        source.close()
        for rank in [rank for rank, connection in self._peers.items() if connection is source]:
            del self._peers[rank]
            if self.states[rank].bye is None and not self._leaving.is_set():
                self._end(f"the process of rank {rank} is gone; {self.states[rank]}")

    def _note(self, text: str) -> None:
        """Say the first cause, before this rank falls over its consequences."""
        if self._noted:
            return
        self._noted = True
        print(printable(f"rank {self.rank}: {text}"), file=sys.stderr, flush=True)
        if self.rank == 0:
            for peer in list(self._peers):
                self._send(peer, {"note": text})

    # The end ---------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        states = self.states if self.rank == 0 else {0: self.states[0]}
        reason = diagnosis(
            states,
            time.monotonic(),
            silence_s=self.silence_s,
            stall_s=self.stall_s if self.rank == 0 else float("inf"),  # only the hub knows all of them
        )
        if reason is not None:
            self._end(reason)

    def _end(self, reason: str) -> None:
        for peer in list(self._peers):
            self._send(peer, {"end": reason})
        print(f"rank {self.rank}: ending, because {reason}. Add resume=auto to go on.", file=sys.stderr, flush=True)
        if "nothing has moved" in reason:
            faulthandler.dump_traceback()
        if self.on_end is not None:
            time.sleep(1)  # the others say it too, before they are ended
            self.on_end()
        os._exit(RANK_LOST)
