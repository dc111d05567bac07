import multiprocessing
import os
import socket
import time

import pytest

from swinmim.errors import RANK_LOST
from swinmim.training.callback_settings import HeartbeatConfig
from swinmim.training.faults.watch import GRACE_S, RankState, Watch, diagnosis

LIMITS = {"silence_s": 30.0, "stall_s": 100.0}


def state(*, step=5, doing="forward pass", moves=10, heard=0.0, moved=0.0, **more):
    return RankState(step=step, doing=doing, moves=moves, heard=heard, moved=moved, **more)


def test_nothing_is_said_while_all_report_and_move():
    assert diagnosis({0: state(), 1: state(moves=7)}, 29, **LIMITS) is None


def test_the_silent_rank_is_named():
    text = diagnosis({0: state(heard=31), 1: state(step=118)}, 31, **LIMITS)
    assert text == "rank 1 has not reported for 31 s; last step 118 (forward pass)"


def test_the_rank_furthest_behind_is_named():
    states = {rank: state(heard=101, moves=50) for rank in range(20)}
    states[7] = state(heard=101, moves=48, step=4, doing="waiting for data")
    text = diagnosis(states, 101, **LIMITS)
    assert text == "nothing has moved for 100 s; furthest behind: rank 7, last step 4 (waiting for data)"
    assert diagnosis(states | {3: state(heard=101, moved=50)}, 101, **LIMITS) is None  # one still moves
    everyone = {rank: state(heard=101) for rank in range(20)}
    assert "rank 0, 1, 2, 3, 4, 5, 6, 7 and 12 more" in diagnosis(everyone, 101, **LIMITS)


def test_a_rank_that_left_with_an_error_ends_the_others_after_a_while():
    states = {0: state(heard=50), 1: state(bye="DataError: no images", left=20)}
    assert diagnosis(states, 20 + GRACE_S, **LIMITS) is None
    assert diagnosis(states, 21 + GRACE_S, **LIMITS).startswith("rank 1 ended with DataError: no images")
    assert diagnosis({0: state(heard=500, moved=500), 1: state(bye="", left=20)}, 500, **LIMITS) is None


def test_timeouts_that_cannot_be():
    with pytest.raises(ValueError, match="silence_s <= stall_s"):
        HeartbeatConfig(silence_s=60, stall_s=30)
    with pytest.raises(ValueError, match="1 <= silence_s"):
        HeartbeatConfig(silence_s=0.1)


def other_rank(door, behaviour):
    watch = Watch(1, 2, silence_s=5, stall_s=60)
    watch.connect("127.0.0.1", *door)
    watch.start()
    watch.mark(3, "forward pass")
    time.sleep(0.5)
    if behaviour == "leaves":
        watch.leave()
    os._exit(0 if behaviour == "leaves" else 9)


def hub(behaviour, results):
    watch = Watch(0, 2, silence_s=5, stall_s=60)
    door = watch.listen("127.0.0.1")
    stranger = socket.create_connection(("127.0.0.1", door[0]))
    stranger.sendall(b'{"token": "guess", "rank": 1}\n{"end": "me"}\n')
    other = multiprocessing.get_context("fork").Process(target=other_rank, args=(door, behaviour))
    other.start()
    watch.start()
    other.join()
    time.sleep(1)
    results.put((watch.states[1].step, watch.states[1].bye))
    time.sleep(0.5)
    watch.leave()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("behaviour", ["leaves", "dies"])
@pytest.mark.slow
def test_the_hub_tells_leaving_from_dying_and_hears_no_strangers(behaviour):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=hub, args=(behaviour, results))
    process.start()
    process.join(30)
    if behaviour == "leaves":
        assert process.exitcode == 0
        assert results.get() == (3, "")
    else:
        assert process.exitcode == RANK_LOST
