"""python -m benchmarks.scaling: bounds of the scaling model, its fit, and the command."""

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from limits import LIMIT
from processes import ROOT, run
from thoroughness import examples

from benchmarks.scaling.__main__ import main
from benchmarks.scaling.analyse import analyse
from benchmarks.scaling.fit import fit_compute, fit_link
from benchmarks.scaling.measure import combine
from benchmarks.scaling.model import (
    FIRST_BUCKET,
    MIB,
    Cluster,
    Compute,
    Exchange,
    Link,
    buckets,
    efficiency,
    gather,
    ring,
    step,
)
from benchmarks.scaling.options import powers
from benchmarks.scaling.protocol import RankResult, Request
from benchmarks.scaling.rank import build_actions
from data.loader import Batch

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


def test_the_time_of_a_launch_is_that_of_its_slowest_rank():
    a, b = {("step", 8): 1.0, ("message", 4): 0.5}, {("step", 8): 2.0, ("message", 4): 0.25}
    assert combine([RankResult(40, a), RankResult(40, b)]) == (40, {("step", 8): 2.0, ("message", 4): 0.5})


LINK, COMPUTE = Link(1e-4, 1e-9), Compute(0.02, 0.001)


def synthetic_rounds(device, counts, batch=64, gradients=3 * MIB):
    """One round of measurements on a machine that follows the model exactly."""
    shared = device == "cpu"
    setting = {"device_type": device, "shared": shared, "deterministic": False, "processes": counts}
    setting |= {"batch_size": batch, "gradient_bytes": gradients}
    rounds = {}
    for count in counts:
        measured = {}
        for images in {batch // n for n in counts} if count == 1 else {batch // count, batch // counts[-1]}:
            compute = COMPUTE.seconds(images * count if shared else images)
            one_bucket = Exchange(gradients, bucket=None, overlaps=False)
            several = Exchange(gradients, in_rank_order=shared and count > 2, overlaps=not shared)
            exchange = one_bucket if gradients <= 100_000_000 else several
            measured["step", images] = step(compute, count, exchange, Cluster(LINK))
            if count > 1:
                measured["compute", images] = compute
        if count > 1:
            measured["gradients", gradients] = ring(gradients, count, Cluster(LINK))
            measured |= {("message", size): ring(size, count, Cluster(LINK)) for size in (4096, MIB, 16 * MIB)}
        rounds[count] = [measured]
    return rounds, setting


CLUSTER = {"up_to": 16, "latency": None, "bandwidth": None}
CLUSTER |= {"per_node": None, "network_latency": None, "network_bandwidth": None}


@pytest.mark.parametrize("gradients", [3 * MIB, 200 * MIB])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_machine_that_follows_the_model_is_predicted_exactly(device, gradients):
    rounds, setting = synthetic_rounds(device, [1, 2, 4], gradients=gradients)
    report = analyse(rounds, setting, CLUSTER)
    assert len(report["check"]) == 3 + 2 + 1  # batch sizes measured with one, two and four processes
    assert all(abs(row["error"]) < 1e-6 for row in report["check"])
    assert all(row["measured"] == pytest.approx(row["predicted"]) for row in report["messages"])
    assert report["links"]["local"] == pytest.approx({"latency": LINK.latency, "per_byte": LINK.per_byte})
    assert report["links"]["network"] is None
    assert [row["processes"] for row in report["cluster"]] == [1, 2, 4, 8, 16]
    assert report["cluster"][0]["weak"]["efficiency"] == pytest.approx(1)
    assert report["cluster"][0]["strong"]["efficiency"] == pytest.approx(1)
    two = next(row for row in report["strong"] if row["processes"] == 2)
    assert two["exposed"]["median"] == pytest.approx(two["step"]["median"] - two["compute"]["median"])
    large = gradients > 100_000_000
    assert report["variants"][0]["name"] == ("buckets of 25 MiB" if large else "one bucket")
    assert (report["variants"][-1]["name"] == "a ring, not rank order") == (large and device == "cpu")
    if device == "cuda":  # each process has its own GPU, as in a cluster
        for kind in ("weak", "strong"):
            for row, predicted in zip(report[kind], report["cluster"], strict=False):
                assert row["efficiency"]["median"] == pytest.approx(predicted[kind]["efficiency"])


def test_strong_and_weak_scaling_are_relative_to_one_process_with_the_same_work():
    rounds, setting = synthetic_rounds("cpu", [1, 2])
    report = analyse(rounds, setting, CLUSTER)
    one, two = rounds[1][0], rounds[2][0]["step", 32]
    assert report["strong"][1]["efficiency"]["median"] == pytest.approx((64 / two) / (64 / one["step", 64]))
    assert report["weak"][1]["efficiency"]["median"] == pytest.approx((64 / two) / (32 / one["step", 32]))


def test_given_latency_and_bandwidth_replace_the_measured_ones():
    rounds, setting = synthetic_rounds("cuda", [1, 2])
    report = analyse(rounds, setting, {**CLUSTER, "latency": 20.0, "bandwidth": 12.5})
    assert report["links"]["local"] == pytest.approx({"latency": 20e-6, "per_byte": 8e-11})
    assert report["measured_link"] == pytest.approx({"latency": LINK.latency, "per_byte": LINK.per_byte})
    alone = {1: [{("step", 64): 0.084, ("step", 32): 0.052}]}
    assert analyse(alone, {**setting, "processes": [1]}, CLUSTER)["cluster"] == []
    predicted = analyse(alone, {**setting, "processes": [1]}, {**CLUSTER, "latency": 20.0, "bandwidth": 12.5})
    assert len(predicted["cluster"]) == 5


def test_compute_is_the_trainers_step_without_gradient_exchange():
    steps, syncs_off = [], []

    @contextmanager
    def no_sync():
        syncs_off.append(True)
        yield
        syncs_off.pop()

    def step(part, lr):
        steps.append((len(part.images), len(part.labels), part.global_size, lr, bool(syncs_off)))

    trainer = SimpleNamespace(
        world=SimpleNamespace(size=2, device=torch.device("cpu"), sum_=lambda tensor: steps.append(tensor.nbytes)),
        train_step=SimpleNamespace(no_sync=no_sync, run=step),
        state=SimpleNamespace(model=torch.nn.Linear(9, 3)),
    )
    batch = Batch(torch.zeros(8, 3, 4, 4), torch.zeros(8), torch.zeros(8), 16)
    built = build_actions(trainer, batch, Request([], [4, 8], [64], 1.0, ""))
    for action in built.values():
        action()
    kinds = {"step": False, "compute": True}
    expected = {(kind, n): (n, n, 2 * n, 0.0, sync_off) for n in (4, 8) for kind, sync_off in kinds.items()}
    expected |= {("gradients", 120): 120, ("message", 64): 64}
    assert dict(zip(built, steps, strict=True)) == expected


def test_powers():
    assert [powers(limit) for limit in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2], [1, 2, 4, 8], [1, 2, 4, 8]]


SMALL = ("--config", "tests/tiny.yaml", "--device", "cpu", "--batch-size", "32", "--rounds", "1")


@pytest.mark.thorough
@pytest.mark.xdist_group("benchmarks")
def test_the_command_measures_predicts_and_compares(shards, tmp_path):
    report, figure = tmp_path / "report.json", tmp_path / "figure.png"
    more = ("--shards", shards, "--processes", "1,2", "--seconds", 0.1, "--largest-message", 1, "--up-to", 8)
    more += ("--timeout", LIMIT, "--json", report, "--figure", figure)
    finished = run(ForkedCommand(["-m", "benchmarks.scaling", *map(str, (*SMALL, *more))]))
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(report.read_text())
    assert [(row["processes"], row["images"]) for row in measured["strong"]] == [(1, 32), (2, 16)]
    assert [(row["processes"], row["images"]) for row in measured["weak"]] == [(1, 16), (2, 16)]
    for row in measured["strong"] + measured["weak"]:
        assert row["rate"]["median"] == pytest.approx(row["processes"] * row["images"] / row["step"]["median"])
    two = measured["strong"][1]
    assert two["compute"]["median"] > 0
    assert two["alone"]["median"] > 0
    assert measured["gradient_bytes"] > 4 * 1000
    assert [row["bytes"] for row in measured["messages"]] == [4096 * 4**power for power in range(5)]
    assert [(row["processes"], row["images"]) for row in measured["check"]] == [(1, 8), (1, 16), (1, 32), (2, 16)]
    assert len(measured["cluster"]) == 4
    assert measured["threads"]["1"] == measured["cores"]
    assert measured["threads"]["2"] == measured["cores"] // 2
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "Assumptions of the model:" in finished.stdout
    assert max(map(len, finished.stdout.splitlines()[1:])) <= 80, "except for the line with the name of the processor"
    assert not list((ROOT / "runs").glob("scaling-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "2,4"], "--processes 2,4: must be increasing and start with 1"),
        (["--processes", "1,2,2"], "--processes 1,2,2: must be increasing and start with 1"),
        (["--processes", "1,x"], "--processes 1,x: must be comma-separated integers"),
        (["--processes", "1,4096", "--batch-size", "8192"], "--processes 4096: this machine has"),
        (["--batch-size", "3", "--processes", "1"], "--batch-size 3"),
        (["--batch-size", "33", "--processes", "1,2"], "--batch-size 33"),
        (["--latency", "-1"], "--latency -1.0: must be a positive number"),
        (["--bandwidth", "nan"], "--bandwidth nan: must be a positive number"),
        (["--per-node", "8", "--network-latency", "0"], "--network-latency 0.0: must be a positive number"),
        (["--network-latency", "9"], "--network-latency and --network-bandwidth need --per-node"),
        (["--seconds", "0"], "--seconds 0.0: must be a positive number"),
        (["--shards", "/nowhere"], "manifest.json"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--resolution", "2"], "resolution"),
        (["--json", "/nowhere/report.json"], "--json /nowhere/report.json"),
        (["--figure", "/nowhere/figure.png"], "--figure /nowhere/figure.png"),
        (["--figure", "figure.gif"], "must end in .png"),
    ],
)
def test_invalid_usage_is_reported_in_one_line(shards, capsys, arguments, message):
    assert main([*SMALL, "--shards", str(shards), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.xdist_group("benchmarks")
def test_a_timeout_is_reported_in_one_line(shards, capsys):
    assert main([*SMALL, "--shards", str(shards), "--processes", "1", "--timeout", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("failed: --processes 1: not finished after 1 s")
    (ROOT / "runs" / "scaling-rank.log").unlink()
