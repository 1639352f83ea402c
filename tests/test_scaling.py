"""python -m benchmarks.scaling: what it measures, and its usage errors."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from failing_clean_up import failing_clean_up
from fork_server import ForkedCommand
from limits import LIMIT
from processes import ROOT, run

from benchmarks.scaling.__main__ import main
from benchmarks.scaling.options import powers
from benchmarks.scaling.protocol import Request
from benchmarks.scaling.rank import build_actions
from data.loader import Batch


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


def test_processes_are_predicted_for_powers_of_two_up_to_the_limit():
    assert [powers(limit) for limit in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2], [1, 2, 4, 8], [1, 2, 4, 8]]


SMALL = ("--config", "tests/tiny.yaml", "--device", "cpu", "--batch-size", "32", "--rounds", "1")


@pytest.mark.thorough
@pytest.mark.xdist_group("benchmarks")
def test_the_command_measures_predicts_and_compares(shards, tmp_path):
    report, figure = tmp_path / "report.json", tmp_path / "figure.png"
    more = ("--shards", shards, "--processes", "1,2", "--seconds", 0.1, "--largest-message", 1, "--up-to", 8)
    more += ("--timeout", int(LIMIT), "--json", report, "--figure", figure)
    command = ForkedCommand(["-m", "benchmarks.scaling", *map(str, (*SMALL, *more))])
    finished = run(command, **failing_clean_up(tmp_path))
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
