"""The scaling model: bounds on the time of a step and of its communication, and how both are fitted to measurements."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples

from benchmarks.scaling.fit import fit_compute, fit_link
from benchmarks.scaling.model import (
    FIRST_BUCKET,
    MIB,
    Cluster,
    Exchange,
    Link,
    buckets,
    efficiency,
    gather,
    ring,
    step,
)

one_link = st.builds(Link, latency=st.floats(1e-7, 1e-2), per_byte=st.floats(1e-12, 1e-7))
links = st.builds(
    Cluster,
    local=one_link,
    network=one_link | st.none(),
    per_node=st.integers(1, 16),
    start=st.just(0.0) | st.floats(0, 1e-4),
)
exchanges = st.builds(
    Exchange,
    gradients=st.integers(1, 2 * 10**8),
    bucket=st.integers(MIB, 200 * MIB) | st.none(),
    half=st.booleans(),
    in_rank_order=st.booleans(),
    overlaps=st.booleans(),
)
computes = st.floats(1e-4, 10)
several = st.integers(2, 5000)
many = examples(200)


def at_most(a, b):
    return a <= b * (1 + 1e-9)


def all_buckets(exchange, processes, link):
    return [exchange.seconds(size, processes, link) for size in buckets(exchange.gradients, exchange.bucket)]


@many
@given(compute=computes, exchange=exchanges, link=links)
def test_one_process_has_no_communication(compute, exchange, link):
    assert step(compute, 1, exchange, link) == compute


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links)
def test_no_gradients_mean_no_communication(compute, exchange, processes, link):
    assert step(compute, processes, replace(exchange, gradients=0), link) == compute


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links)
def test_a_step_lies_between_full_and_no_overlap(compute, exchange, processes, link):
    bucket_seconds = all_buckets(exchange, processes, link)
    seconds = step(compute, processes, exchange, link)
    # The last bucket is complete only when the backward pass ends, so it is never hidden.
    assert at_most(max(compute + bucket_seconds[-1], sum(bucket_seconds)), seconds)
    assert at_most(seconds, compute + sum(bucket_seconds))
    if not exchange.overlaps:
        assert seconds == pytest.approx(compute + sum(bucket_seconds))


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links, faster=st.floats(1, 100))
def test_a_better_setting_is_never_slower(compute, exchange, processes, link, faster):
    seconds = step(compute, processes, exchange, link)
    for name in ("local", "network"):
        slow = getattr(link, name)
        if slow is not None:
            for fast in (
                replace(slow, per_byte=slow.per_byte / faster),
                replace(slow, latency=slow.latency / faster),
            ):
                assert at_most(step(compute, processes, exchange, replace(link, **{name: fast})), seconds)
    assert at_most(step(compute / faster, processes, exchange, link), seconds)
    assert at_most(step(compute, processes, replace(exchange, half=True), link), seconds)
    assert at_most(step(compute, processes, replace(exchange, overlaps=True), link), seconds)
    assert at_most(seconds, step(compute, processes + 1, exchange, link))


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links, batches=st.integers(2, 20))
def test_gradient_accumulation_communicates_once_per_step(compute, exchange, processes, link, batches):
    exposed = step(compute, processes, exchange, link) - compute
    seconds = step(compute, processes, replace(exchange, accumulate=batches), link)
    assert seconds == pytest.approx(batches * compute + exposed)


@many
@given(size=st.integers(0, 10**9), bucket=st.integers(MIB, 10**8))
def test_buckets_contain_every_byte_and_the_first_is_small(size, bucket):
    sizes = buckets(size, bucket)
    assert sum(sizes) == size
    assert all(0 < each <= bucket for each in sizes)
    assert all(each == bucket for each in sizes[1:-1])
    assert sizes[:1] == ([min(size, FIRST_BUCKET)] if size else [])


def test_communication_costs_follow_the_published_formulas():
    link = Cluster(Link(latency=1e-3, per_byte=1e-6))
    assert ring(8000, 4, link) == pytest.approx(6 * 1e-3 + 6 / 4 * 8000 * 1e-6)
    assert gather(8000, 4, link) == pytest.approx(3 * 1e-3 + 3 * 8000 * 1e-6)
    assert Exchange(1, half=True).seconds(8000, 4, link) == pytest.approx(ring(4000, 4, link))
    assert Exchange(1, in_rank_order=True).seconds(8000, 4, link) == pytest.approx(gather(8000, 4, link))


@many
@given(link=one_link, counts=st.sets(st.integers(2, 64), min_size=1, max_size=4))
def test_the_fit_recovers_the_link_of_synthetic_ring_all_reduces(link, counts):
    sizes = [4096 * 4**power for power in range(8)]
    fitted = fit_link([(size, count, ring(size, count, Cluster(link))) for size in sizes for count in counts])
    # A term below a thousandth of the measured time cannot be identified.
    if ring(4096, 2, Cluster(replace(link, per_byte=0))) > 1e-3 * ring(4096, 2, Cluster(link)):
        assert fitted.latency == pytest.approx(link.latency, rel=1e-4)
    if ring(sizes[-1], 2, Cluster(replace(link, latency=0))) > 1e-3 * ring(sizes[-1], 2, Cluster(link)):
        assert fitted.per_byte == pytest.approx(link.per_byte, rel=1e-4)


def test_a_fit_is_never_negative():
    falling = fit_compute([(10, 1.0), (20, 0.9)])
    assert falling.per_image == 0
    assert falling.fixed == pytest.approx((1 + 1 / 0.9) / (1 + 1 / 0.81))
    steep = fit_compute([(10, 1.0), (20, 3.0)])
    assert steep.fixed == 0
    assert steep.per_image == pytest.approx((10 + 20 / 3) / (100 + 400 / 9))
    exact = fit_compute([(10, 1.5), (30, 3.5)])
    assert (exact.fixed, exact.per_image) == (pytest.approx(0.5), pytest.approx(0.1))


def test_efficiency_on_shared_cores_is_relative_to_one_process():
    assert efficiency(300, 100, 4, shared=False) == 0.75
    assert efficiency(95, 100, 2, shared=True) == 0.95
