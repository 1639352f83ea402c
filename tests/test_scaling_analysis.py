"""What the scaling benchmark concludes from measurements, on a machine that follows its model exactly."""

import pytest

from benchmarks.scaling.analyse import analyse
from benchmarks.scaling.measure import combine
from benchmarks.scaling.model import MIB, Cluster, Compute, Exchange, Link, ring, step
from benchmarks.scaling.protocol import RankResult


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
