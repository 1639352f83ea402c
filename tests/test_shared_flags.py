"""Flags are exchanged every few steps, at the same steps on all ranks, and all ranks see each of them once."""

import json

import pytest
import torch
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from processes import run

from regnet.distributed.shared_flags import MAX_INTERVAL, SharedFlags, exchange_interval
from regnet.distributed.world import World


@given(step_time=st.integers(0, 2**40), longer=st.integers(0, 2**40))
def test_the_interval_shrinks_with_the_step_time_and_lasts_a_tenth_of_a_second_at_most(step_time, longer):
    interval = exchange_interval(step_time)
    assert 1 <= interval <= MAX_INTERVAL
    assert interval == 1 or interval * step_time <= 100_000
    assert exchange_interval(step_time + longer) <= interval


def test_a_single_process_sees_its_flags_immediately():
    flags = SharedFlags(World(0, 1, 0, torch.device("cpu"), None, None), 2)
    flags.restart()
    assert flags.exchange(True, False) == [True, False]
    assert flags.exchange(False, False) == [False, False]
    flags.wait()


def phases_of_all_ranks(ranks, *phases):
    """For each phase: steps at which a flag was seen and at which flags were exchanged, which all ranks agree on."""
    done = run(ForkedCommand(["tests/helpers/shared_flags_ranks.py", json.dumps(phases)], ranks))
    assert done.returncode == 0, done.stderr
    of_ranks = json.loads(done.stdout)
    assert len(of_ranks) == ranks
    assert all(results == of_ranks[0] for results in of_ranks)
    return of_ranks[0]


def phase(steps, *seconds, flags=()):
    return {"steps": steps, "seconds": seconds, "set": flags}


@pytest.mark.parametrize("ranks", [2, 3])
def test_short_steps_share_an_exchange_and_the_slowest_rank_decides_how_many(ranks):
    """Steps of 20 ms on the last rank: five of them take a tenth of a second."""
    seconds = [0.001, 0.004, 0.02][-ranks:]
    seen, exchanged = phases_of_all_ranks(ranks, phase(40, *seconds))[0]
    assert seen == []
    assert exchanged == [1, 2, 3, 8, 13, 18, 23, 28, 33, 38]


def test_a_flag_of_any_rank_is_seen_once_by_all_ranks_within_two_intervals():
    fast = [0.001] * 3
    phases = [phase(100, *fast, flags=[[rank, 40 + 5 * rank]]) for rank in range(3)]
    for (seen, exchanged), sent in zip(phases_of_all_ranks(3, *phases), (51, 51, 51), strict=True):
        assert exchanged == [1, 2, 3, 19, 35, 51, 67, 83, 99]
        assert seen == [sent + MAX_INTERVAL]


def test_long_steps_exchange_at_every_step():
    phases = phases_of_all_ranks(2, phase(9, 0.001, 0.3, flags=[[0, 1], [1, 5]]))
    assert phases == [[[2, 6], list(range(1, 10))]]


def test_after_a_restart_every_step_exchanges_until_its_duration_is_known():
    """An evaluation after short steps, in which batches may take seconds, begins with exchanges at every batch."""
    phases = phases_of_all_ranks(2, phase(50, 0.001, 0.001), phase(6, 2.0, 2.0, flags=[[1, 2]]))
    assert phases[0][1] == [1, 2, 3, 19, 35]
    assert phases[1] == [[3], [1, 2, 3, 4, 5, 6]]


def test_flags_of_the_last_steps_before_a_restart():
    """One that was exchanged is seen at the first step after it; one that was not is dropped."""
    before = phase(40, 0.001, 0.001, flags=[[0, 30], [1, 38]])
    (seen, exchanged), (seen_after, _) = phases_of_all_ranks(2, before, phase(60, 0.001, 0.001))
    assert (seen, exchanged[-1]) == ([], 35)
    assert seen_after == [1]
