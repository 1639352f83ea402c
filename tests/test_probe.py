"""The probe times every layer of the network; measured speeds are not judged."""

import json

import pytest
import torch
from fork_server import ForkedCommand
from processes import TINY, run

from benchmarks.probe.clock import Clock
from benchmarks.probe.layers import Convolution, Normalized, layers_of
from benchmarks.probe.measure import sums
from benchmarks.probe.show import verdict
from regnet.config.parser import parse_config
from regnet.models.regnet import Model

pytestmark = pytest.mark.xdist_group("benchmarks")

SMALL = ("--config", TINY, "--batch-size", 2, "--rounds", 1, "--seconds", 0.001)


def test_the_probe_times_every_convolution_in_every_variant(shards, tmp_path):
    report = tmp_path / "report.json"
    flags = ("--shards", shards, *SMALL, "--set", "train.precision=bf16", "--json", report)
    finished = run(ForkedCommand(["-m", "benchmarks.probe", *map(str, flags)]))
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(report.read_text())
    for layer in measured["convolutions"]:
        expected = ["nhwc", "nhwc, tuned", "nchw, tuned", *["dense"] * (layer["groups"] > 1)]
        assert list(layer["variants"]) == expected
        for times in layer["variants"].values():
            assert list(times) == ["forward", "input", "weight"]
            assert all(0 < time["lowest"] <= time["us"] <= time["highest"] for time in times.values())
    assert sum(layer["count"] for layer in measured["convolutions"]) == 13
    assert sum(layer["count"] for layer in measured["others"]) == 13
    assert measured["kernels"]
    assert "times the time of moving its bytes; perfect kernels would save" in finished.stdout.splitlines()[-1]


def test_layers_are_counted_by_shape():
    model = parse_config(["--config", "configs/baseline.yaml"]).model
    convolutions, normalized = layers_of(Model(model.design(), 100), 56)
    assert convolutions[Convolution(3, 32, 3, 1, 1, 56)] == 1
    assert sum(count for shape, count in convolutions.items() if shape.kind == "grouped 3x3") == 13
    assert sum(normalized.values()) == sum(convolutions.values())
    assert normalized[Normalized(32, 56)] == 3  # the stem, and the first two of the first block


def test_the_ratio_is_that_of_the_time_to_the_time_of_moving_the_bytes():
    clock = Clock(torch.device("cpu"), rounds=2, seconds=0.001, bandwidth=4e9)
    time = clock.time(lambda: None, moved=8000)  # takes 2 us
    assert time["ratio"] == pytest.approx(time["us"] / 2)


def test_sums_weigh_each_layer_by_its_count():
    def layer(kind, count, us, ratio):
        return {"kind": kind, "count": count, "variants": {"nhwc": {"forward": {"us": us, "ratio": ratio}}}}

    others = [{"count": 2, "times": {"ReLU": {"us": 1, "ratio": 1}}}]
    convolutions = [layer("grouped 3x3", 2, 400, 4), layer("grouped 3x3", 1, 100, 1), layer("1x1", 1, 7, 7)]
    results = dict(sums(convolutions, others))
    assert results["grouped 3x3, nhwc"] == {"us": 900, "limit_us": 300, "ratio": 3}
    assert results["1x1, nhwc"] == {"us": 7, "limit_us": 1, "ratio": 7}
    assert results["ReLU"]["us"] == 2
    expected = (
        "grouped 3x3, nhwc: 3.00 times the time of moving its bytes; perfect kernels would save 0.600 ms of a step"
    )
    assert verdict(results) == expected
