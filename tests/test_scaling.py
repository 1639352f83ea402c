"""The model of scaling keeps to what no cluster can beat, and the command measures, foretells and compares."""

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nursery import ForkedCommand
from programs import ROOT, run

from benchmarks.scaling.__main__ import main
from benchmarks.scaling.analyse import analyse
from benchmarks.scaling.fit import fit_compute, fit_link
from benchmarks.scaling.measure import combine
from benchmarks.scaling.model import FIRST_BUCKET, MIB, Compute, Exchange, Link, buckets, efficiency, gather, ring, step
from benchmarks.scaling.options import powers
from benchmarks.scaling.protocol import Order, Seen
from benchmarks.scaling.rank import actions
from data.loader import Batch

links = st.builds(Link, latency=st.floats(1e-7, 1e-2), per_byte=st.floats(1e-12, 1e-7))
exchanges = st.builds(
    Exchange,
    gradients=st.integers(1, 2 * 10**8),
    bucket=st.integers(MIB, 200 * MIB),
    half=st.booleans(),
    in_rank_order=st.booleans(),
    overlaps=st.booleans(),
)
computes = st.floats(1e-4, 10)
several = st.integers(2, 5000)
many = settings(deadline=None, max_examples=200)


def at_most(a, b):
    return a <= b * (1 + 1e-9)


def all_buckets(exchange, processes, link):
    return [exchange.seconds(size, processes, link) for size in buckets(exchange.gradients, exchange.bucket)]


@many
@given(compute=computes, exchange=exchanges, link=links)
def test_one_process_computes_and_exchanges_nothing(compute, exchange, link):
    assert step(compute, 1, exchange, link) == compute


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links)
def test_without_gradients_nothing_is_exchanged(compute, exchange, processes, link):
    assert step(compute, processes, replace(exchange, gradients=0), link) == compute


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links)
def test_a_step_lies_between_all_hidden_and_none_hidden(compute, exchange, processes, link):
    parts = all_buckets(exchange, processes, link)
    took = step(compute, processes, exchange, link)
    # The last bucket is full when the backward pass is over: it at least is never hidden.
    assert at_most(max(compute + parts[-1], sum(parts)), took)
    assert at_most(took, compute + sum(parts))
    if not exchange.overlaps:
        assert took == pytest.approx(compute + sum(parts))


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links, faster=st.floats(1, 100))
def test_nothing_better_is_slower(compute, exchange, processes, link, faster):
    took = step(compute, processes, exchange, link)
    assert at_most(step(compute, processes, exchange, replace(link, per_byte=link.per_byte / faster)), took)
    assert at_most(step(compute, processes, exchange, replace(link, latency=link.latency / faster)), took)
    assert at_most(step(compute / faster, processes, exchange, link), took)
    assert at_most(step(compute, processes, replace(exchange, half=True), link), took)
    assert at_most(step(compute, processes, replace(exchange, overlaps=True), link), took)
    assert at_most(took, step(compute, processes + 1, exchange, link))


@many
@given(compute=computes, exchange=exchanges, processes=several, link=links, batches=st.integers(2, 20))
def test_accumulation_exchanges_once_for_all_its_batches(compute, exchange, processes, link, batches):
    exposed = step(compute, processes, exchange, link) - compute
    took = step(compute, processes, replace(exchange, accumulate=batches), link)
    assert took == pytest.approx(batches * compute + exposed)


@many
@given(size=st.integers(0, 10**9), bucket=st.integers(MIB, 10**8))
def test_buckets_hold_every_byte_the_first_of_them_few(size, bucket):
    sizes = buckets(size, bucket)
    assert sum(sizes) == size
    assert all(0 < each <= bucket for each in sizes)
    assert all(each == bucket for each in sizes[1:-1])
    assert sizes[:1] == ([min(size, FIRST_BUCKET)] if size else [])


def test_exchanges_cost_what_the_literature_says():
    link = Link(latency=1e-3, per_byte=1e-6)
    assert ring(8000, 4, link) == pytest.approx(6 * 1e-3 + 6 / 4 * 8000 * 1e-6)
    assert gather(8000, 4, link) == pytest.approx(3 * 1e-3 + 3 * 8000 * 1e-6)
    assert Exchange(1, half=True).seconds(8000, 4, link) == pytest.approx(ring(4000, 4, link))
    assert Exchange(1, in_rank_order=True).seconds(8000, 4, link) == pytest.approx(gather(8000, 4, link))


@many
@given(link=links, counts=st.sets(st.integers(2, 64), min_size=1, max_size=4))
def test_the_fit_finds_the_links_of_made_up_rings(link, counts):
    sizes = [4096 * 4**power for power in range(8)]
    found = fit_link([(size, count, ring(size, count, link)) for size in sizes for count in counts])
    # Of what is a thousandth of all that was measured nothing can be told.
    if ring(4096, 2, replace(link, per_byte=0)) > 1e-3 * ring(4096, 2, link):
        assert found.latency == pytest.approx(link.latency, rel=1e-4)
    if ring(sizes[-1], 2, replace(link, latency=0)) > 1e-3 * ring(sizes[-1], 2, link):
        assert found.per_byte == pytest.approx(link.per_byte, rel=1e-4)


def test_a_fit_is_never_below_zero():
    falling = fit_compute([(10, 1.0), (20, 0.9)])
    assert falling.per_image == 0
    assert falling.fixed == pytest.approx((1 + 1 / 0.9) / (1 + 1 / 0.81))
    steep = fit_compute([(10, 1.0), (20, 3.0)])
    assert steep.fixed == 0
    assert steep.per_image == pytest.approx((10 + 20 / 3) / (100 + 400 / 9))
    exact = fit_compute([(10, 1.5), (30, 3.5)])
    assert (exact.fixed, exact.per_image) == (pytest.approx(0.5), pytest.approx(0.1))


def test_efficiency_of_shared_cores_is_not_divided():
    assert efficiency(300, 100, 4, shared=False) == 0.75
    assert efficiency(95, 100, 2, shared=True) == 0.95


def test_the_slowest_rank_is_a_launchs_time():
    a, b = {("step", 8): 1.0, ("message", 4): 0.5}, {("step", 8): 2.0, ("message", 4): 0.25}
    assert combine([Seen(40, a), Seen(40, b)]) == (40, {("step", 8): 2.0, ("message", 4): 0.5})


LINK, COMPUTE, GRADIENTS = Link(1e-4, 1e-9), Compute(0.02, 0.001), 3 * MIB


def made_up(device, counts, batch=64):
    """What a machine that keeps to the model would have measured in a round."""
    shared = device == "cpu"
    setting = {"device_type": device, "shared": shared, "deterministic": False, "processes": counts}
    setting |= {"batch_size": batch, "gradient_bytes": GRADIENTS}
    rounds = {}
    for count in counts:
        seen = {}
        for images in {batch // n for n in counts} if count == 1 else {batch // count, batch // counts[-1]}:
            compute = COMPUTE.seconds(images * count if shared else images)
            exchange = Exchange(GRADIENTS, in_rank_order=shared and count > 2, overlaps=not shared)
            seen["step", images] = step(compute, count, exchange, LINK)
            if count > 1:
                seen["compute", images] = compute
        if count > 1:
            seen["gradients", GRADIENTS] = ring(GRADIENTS, count, LINK)
            seen |= {("message", size): ring(size, count, LINK) for size in (4096, MIB, 16 * MIB)}
        rounds[count] = [seen]
    return rounds, setting


CLUSTER = {"up_to": 16, "latency": None, "bandwidth": None}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_machine_that_keeps_to_the_model_is_foretold_without_error(device):
    rounds, setting = made_up(device, [1, 2, 4])
    report = analyse(rounds, setting, CLUSTER)
    assert len(report["check"]) == 3 + 2 + 1  # sizes of one process, of two, of four
    assert all(abs(row["error"]) < 1e-6 for row in report["check"])
    assert all(row["measured"] == pytest.approx(row["predicted"]) for row in report["messages"])
    assert report["link"] == pytest.approx({"latency": LINK.latency, "per_byte": LINK.per_byte})
    assert [row["processes"] for row in report["cluster"]] == [1, 2, 4, 8, 16]
    assert report["cluster"][0]["weak"]["efficiency"] == pytest.approx(1)
    assert report["cluster"][0]["strong"]["efficiency"] == pytest.approx(1)
    two = next(row for row in report["strong"] if row["processes"] == 2)
    assert two["visible"]["median"] == pytest.approx(two["step"]["median"] - two["compute"]["median"])
    assert (report["variants"][-1]["name"] == "a ring, not rank order") == (device == "cpu")
    if device == "cuda":  # each process is what it is in a cluster
        for kind in ("weak", "strong"):
            for row, foretold in zip(report[kind], report["cluster"], strict=False):
                assert row["efficiency"]["median"] == pytest.approx(foretold[kind]["efficiency"])


def test_both_kinds_are_compared_with_the_one_process_that_does_the_same():
    rounds, setting = made_up("cpu", [1, 2])
    report = analyse(rounds, setting, CLUSTER)
    one, two = rounds[1][0], rounds[2][0]["step", 32]
    assert report["strong"][1]["efficiency"]["median"] == pytest.approx((64 / two) / (64 / one["step", 64]))
    assert report["weak"][1]["efficiency"]["median"] == pytest.approx((64 / two) / (32 / one["step", 32]))


def test_the_links_of_another_cluster_are_those_that_are_given():
    rounds, setting = made_up("cuda", [1, 2])
    given_ = analyse(rounds, setting, {**CLUSTER, "latency": 20.0, "bandwidth": 12.5})
    assert given_["link"] == pytest.approx({"latency": 20e-6, "per_byte": 8e-11})
    assert given_["measured_link"] == pytest.approx({"latency": LINK.latency, "per_byte": LINK.per_byte})
    alone = {1: [{("step", 64): 0.084, ("step", 32): 0.052}]}
    assert analyse(alone, {**setting, "processes": [1]}, CLUSTER)["cluster"] == []
    foretold = analyse(alone, {**setting, "processes": [1]}, {**CLUSTER, "latency": 20.0, "bandwidth": 12.5})
    assert len(foretold["cluster"]) == 5


def test_compute_is_the_trainers_step_with_its_gradients_kept():
    steps, kept = [], []

    @contextmanager
    def gradients_stay_here():
        kept.append(True)
        yield
        kept.pop()

    trainer = SimpleNamespace(
        world=SimpleNamespace(size=2, device=torch.device("cpu"), sum_=lambda tensor: steps.append(tensor.nbytes)),
        gradients_stay_here=gradients_stay_here,
        step=lambda part, rate: steps.append((len(part.images), len(part.labels), part.global_size, rate, bool(kept))),
        state=SimpleNamespace(model=torch.nn.Linear(9, 3)),
    )
    batch = Batch(torch.zeros(8, 3, 4, 4), torch.zeros(8), torch.zeros(8), 16)
    found = actions(trainer, batch, Order([], [4, 8], [64], 1.0, ""))
    for action in found.values():
        action()
    parts = {"step": False, "compute": True}
    expected = {(kind, n): (n, n, 2 * n, 0.0, kept) for n in (4, 8) for kind, kept in parts.items()}
    expected |= {("gradients", 120): 120, ("message", 64): 64}
    assert dict(zip(found, steps, strict=True)) == expected


def test_powers():
    assert [powers(most) for most in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2], [1, 2, 4, 8], [1, 2, 4, 8]]


SMALL = ("--config", "tests/tiny.yaml", "--device", "cpu", "--batch-size", "32", "--rounds", "1")


@pytest.mark.xdist_group("benchmarks")
def test_the_command_measures_foretells_and_compares(shards, tmp_path):
    report, picture = tmp_path / "report.json", tmp_path / "picture.png"
    more = ("--shards", shards, "--processes", "1,2", "--seconds", 0.1, "--largest-message", 1, "--up-to", 8)
    more += ("--timeout", 90, "--json", report, "--picture", picture)
    done = run(ForkedCommand(["-m", "benchmarks.scaling", *map(str, (*SMALL, *more))]), timeout=200)
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert [(row["processes"], row["images"]) for row in told["strong"]] == [(1, 32), (2, 16)]
    assert [(row["processes"], row["images"]) for row in told["weak"]] == [(1, 16), (2, 16)]
    for row in told["strong"] + told["weak"]:
        assert row["rate"]["median"] == pytest.approx(row["processes"] * row["images"] / row["step"]["median"])
    two = told["strong"][1]
    assert two["compute"]["median"] > 0
    assert two["alone"]["median"] > 0
    assert told["gradient_bytes"] > 4 * 1000
    assert [row["bytes"] for row in told["messages"]] == [4096 * 4**power for power in range(5)]
    assert [(row["processes"], row["images"]) for row in told["check"]] == [(1, 8), (1, 16), (1, 32), (2, 16)]
    assert len(told["cluster"]) == 4
    assert told["threads"]["1"] == told["cores"]
    assert told["threads"]["2"] == told["cores"] // 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "The model supposes:" in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80, "but for the name of the machine"
    assert not list((ROOT / "runs").glob("scaling-*"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--processes", "2,4"], "--processes 2,4: numbers that rise from 1"),
        (["--processes", "1,2,2"], "--processes 1,2,2: numbers that rise from 1"),
        (["--processes", "1,x"], "--processes 1,x: not numbers"),
        (["--processes", "1,4096", "--batch-size", "8192"], "--processes 4096: there are"),
        (["--batch-size", "3", "--processes", "1"], "--batch-size 3"),
        (["--batch-size", "33", "--processes", "1,2"], "--batch-size 33"),
        (["--latency", "-1"], "--latency -1.0: not a number above 0"),
        (["--bandwidth", "nan"], "--bandwidth nan: not a number above 0"),
        (["--seconds", "0"], "--seconds 0.0: not a number above 0"),
        (["--shards", "/nowhere"], "manifest.json"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--resolution", "2"], "resolution"),
        (["--json", "/nowhere/report.json"], "--json /nowhere/report.json"),
        (["--picture", "/nowhere/picture.png"], "--picture /nowhere/picture.png"),
        (["--picture", "picture.gif"], "must end in .png"),
    ],
)
def test_wrong_usage_is_told_in_one_line(shards, capsys, arguments, complaint):
    assert main([*SMALL, "--shards", str(shards), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


@pytest.mark.xdist_group("benchmarks")
def test_a_launch_that_takes_too_long_is_told_in_one_line(shards, capsys):
    assert main([*SMALL, "--shards", str(shards), "--processes", "1", "--timeout", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("failed: --processes 1: not done after 1 s")
    (ROOT / "runs" / "scaling-rank.log").unlink()
