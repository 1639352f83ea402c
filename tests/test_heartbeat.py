"""Heartbeats: which ranks are reported, what counts as the cause of a failure, and how the processes end."""

import threading

import pytest
import torch.distributed as dist
from limits import LIMIT
from scripted_heartbeats import TIMEOUT, Job

from regnet.distributed.heartbeat import INTERVAL, PeerLost

CONSEQUENCE = RuntimeError("Connection closed by peer")
STORE_LOST = "lost the connection to the rendezvous store, hosted by the launcher or by rank 0"


@pytest.fixture
def job(monkeypatch):
    started = Job(monkeypatch)
    yield started
    started.end()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_live_ranks_are_not_reported_however_long_they_live(job, size):
    job.start(*range(size), size=size)
    job.beat(times=60)
    assert [job.heartbeat_of(rank) for rank in range(size)] == ["60"] * size
    assert job.failure is None


@pytest.mark.parametrize(("size", "silent"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 1)])
def test_a_silent_rank_is_reported_after_the_timeout_and_every_rank_reads_it(job, size, silent):
    others = [rank for rank in range(size) if rank != silent]
    job.start(*others, size=size)
    # The first heartbeat is compared with nothing, and the silence must exceed the timeout.
    job.beat(times=21)
    assert job.failure is None
    job.beat()
    message = f"rank {silent} stopped responding: no heartbeat for 10 s"
    assert job.failure == message
    job.beat()
    assert [job.heartbeat_of(rank) for rank in others] == ["done"] * len(others)
    for rank in reversed(others):
        cause = job.alive[rank].report_failure(CONSEQUENCE)
        assert isinstance(cause, PeerLost)
        assert str(cause) == message
        assert rank == 0 or job.sleeps == 0, "the cause was known"


def test_a_rank_that_has_ended_is_not_silent(job):
    job.start(0, size=2)
    job.store.set("rank/1", "done")
    job.beat(times=60)
    assert job.failure is None


def test_a_silence_is_counted_from_the_last_heartbeat(job):
    """A rank whose heartbeats take 20 intervals each lives."""
    job.start(0, size=2)
    for beats in range(1, 5):
        job.store.set("rank/1", str(beats))
        job.beat(times=20)
    assert job.failure is None


def test_the_first_failure_counts_and_the_failing_ranks_keep_their_own_errors(job):
    error, other = ValueError("no\n  memory"), KeyError("k")
    ranks = job.start(0, 1, 2, size=3)
    job.alive = {}
    assert ranks[1].report_failure(error) is error
    assert ranks[2].report_failure(other) is other
    assert ranks[1].report_failure(other) is error, "the first call decides"
    assert job.failure == "rank 1 failed: no memory"
    cause = ranks[0].report_failure(CONSEQUENCE)
    assert isinstance(cause, PeerLost)
    assert str(cause) == "rank 1 failed: no memory"


@pytest.mark.parametrize(
    "error",
    [
        CONSEQUENCE,
        dist.DistError("a"),
        dist.DistStoreError("b"),
        dist.DistNetworkError("c"),
        dist.DistBackendError("d"),
    ],
    ids=repr,
)
def test_errors_of_collectives_are_consequences(job, error):
    (rank,) = job.start(0, size=2)
    job.store.set("failure", "rank 1 failed: no")
    assert str(rank.report_failure(error)) == "rank 1 failed: no"


class OutOfMemory(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "text"), [(OutOfMemory("no memory"), "no memory"), (ValueError(), "ValueError")], ids=repr
)
def test_another_error_is_this_ranks_own_failure(job, error, text):
    _, rank = job.start(0, 1, size=2)
    assert rank.report_failure(error) is error
    assert job.failure == f"rank 1 failed: {text}"


@pytest.mark.parametrize(("timeout", "seconds"), [(3.0, 10.0), (60.0, 60.0)])
def test_a_process_that_cannot_end_after_a_failure_is_ended(job, timeout, seconds):
    (rank,) = job.start(0, size=1, timeout=timeout)
    rank.report_failure(ValueError())
    assert job.last_resort == [seconds]


@pytest.mark.parametrize(("size", "dead"), [(2, [0]), (4, [0, 2]), (3, [2])])
def test_a_failed_collective_is_the_fault_of_the_ranks_without_heartbeats(job, size, dead):
    """A rank counts as dead before its silence has lasted for the timeout."""
    first, *others = (rank for rank in range(size) if rank not in dead)
    job.start(first, *others, size=size)
    job.beat(times=3)
    failing = job.alive.pop(first)
    cause = failing.report_failure(CONSEQUENCE)
    assert isinstance(cause, PeerLost)
    assert str(cause) == f"rank {', '.join(map(str, dead))} stopped responding"
    assert job.failure == str(cause)
    assert job.now >= 6 * INTERVAL


def test_a_failed_collective_with_all_ranks_alive_or_done_is_this_ranks_own_failure(job):
    job.start(0, 1, size=3)
    job.store.set("rank/2", "done")
    assert job.alive.pop(1).report_failure(CONSEQUENCE) is CONSEQUENCE
    assert job.failure == "rank 1 failed: Connection closed by peer"


def test_a_failure_that_is_published_during_the_search_for_dead_ranks_ends_it(job):
    (rank,) = job.start(1, size=2)
    job.alive = {}
    job.at_sleep = lambda number: number == 3 and job.store.set("failure", "rank 0 failed: no")
    assert str(rank.report_failure(CONSEQUENCE)) == "rank 0 failed: no"
    assert job.now == 3 * INTERVAL


def test_a_rank_that_searches_for_dead_ranks_does_not_look_dead(job):
    (rank,) = job.start(1, size=2)
    job.alive, seen = {}, []
    job.at_sleep = lambda number: seen.append(job.heartbeat_of(1))
    rank.report_failure(CONSEQUENCE)
    assert len(set(seen)) == len(seen) == 6


class Gone:
    """A store whose host has gone."""

    def __getattr__(self, name):
        def lost(*args):
            raise dist.DistNetworkError("connection reset")

        return lost


def test_a_lost_store_is_the_cause_of_a_failed_collective(job):
    (rank,) = job.start(1, size=2)
    rank._store = Gone()
    cause = rank.report_failure(CONSEQUENCE)
    assert isinstance(cause, PeerLost)
    assert str(cause) == STORE_LOST


def test_a_store_that_is_lost_after_the_failure_was_read_does_not_hide_it(job):
    rank, _ = job.start(0, 1, size=2)
    job.store.set("failure", "rank 1 failed: no")
    job.beat(0)
    rank._store = Gone()
    assert str(rank.report_failure(CONSEQUENCE)) == "rank 1 failed: no"


def test_rank_zero_ends_after_the_others(job):
    first, second = job.start(0, 1, size=2)
    job.alive = {}
    second.close()
    assert (job.heartbeat_of(1), job.sleeps) == ("done", 0)
    job.store.set("rank/1", "7")
    job.at_sleep = lambda number: number == 5 and job.store.set("rank/1", "done")
    first.close()
    assert (job.heartbeat_of(0), job.sleeps) == ("done", 5)
    assert job.now < 1, "so that the end of a run is not delayed"


def test_rank_zero_waits_for_a_rank_that_does_not_end_no_longer_than_the_timeout(job):
    (rank,) = job.start(0, size=2)
    job.alive = {}
    rank.close()
    assert TIMEOUT <= job.now < TIMEOUT + 1


def test_a_failed_rank_zero_waits_for_live_ranks_for_three_seconds_and_not_for_dead_ones(job):
    (rank,) = job.start(0, size=2)
    job.alive = {}
    rank.report_failure(ValueError())
    assert 6 * INTERVAL <= job.now < 6 * INTERVAL + 1


def test_a_failed_rank_zero_does_not_wait_for_dead_ranks(job):
    (rank,) = job.start(0, size=2)
    job.alive = {}
    assert str(rank.report_failure(CONSEQUENCE)) == "rank 1 stopped responding"
    assert job.now == 6 * INTERVAL


@pytest.mark.parametrize("reason", ["rank 1 failed: no", STORE_LOST])
@pytest.mark.parametrize("last_action_fails", [False, True])
def test_a_process_whose_main_thread_is_blocked_is_ended(job, capsys, monkeypatch, reason, last_action_fails):
    monkeypatch.setattr(threading, "excepthook", lambda error: None)
    (rank,) = job.start(0, size=2)
    reasons = []

    def before_exit(text):
        reasons.append(text)
        if last_action_fails:
            raise OSError("disk")

    rank.before_exit = before_exit
    if reason == STORE_LOST:
        rank._store = Gone()
    else:
        job.store.set("failure", reason)
    job.beat()
    assert (job.exits, reasons) == ([], []), "the main thread has time to end the process itself"
    job.beat()
    assert (job.exits, reasons) == ([1], [reason])
    assert rank._closed.seconds == [INTERVAL, 5.0]
    assert capsys.readouterr().err == f"failed (rank 0): {reason}\n"
    assert not rank._thread.is_alive()


def test_a_main_thread_that_ends_in_time_ends_the_process_itself(job):
    rank, _ = job.start(0, 1, size=2)
    job.store.set("failure", "rank 1 failed: no")
    job.beat(0)
    rank._closed.set()
    rank._thread.join(LIMIT)
    assert job.exits == []


def test_without_a_last_action_a_blocked_process_is_ended_without_another_error(job, monkeypatch):
    errors = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    job.start(0, size=2)
    job.store.set("failure", "rank 1 failed: no")
    job.beat(times=2)
    assert (job.exits, errors) == ([1], [])


def test_heartbeats_do_not_keep_a_process_alive(job):
    (rank,) = job.start(0, size=1)
    assert rank._thread.daemon
