"""The benchmarks run and say what they measured; how fast anything is decides nothing here."""

import json
import warnings
from collections import Counter

import pytest
import torch
import yaml
from nursery import ForkedCommand
from programs import ROOT, TINY, run
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step.machine import Traffic, work_of
from benchmarks.step.parts import Clock, taken_apart
from benchmarks.step.waits import host_waits, waits_among
from regnet.config.parser import parse_config
from regnet.models.complexity import profile_operators
from regnet.models.regnet import Model
from regnet.training.amp import Precision

pytestmark = pytest.mark.xdist_group("benchmarks")  # they look at what is left in runs/

SMALL = ("--batch-size", 50, "--rounds", 1, "--seconds", 0.3, "--config", "configs/debug.yaml")


def benchmark(name, *options):
    return run(ForkedCommand(["-m", f"benchmarks.{name}", *map(str, options)]), timeout=200)


def in_order(results):
    return all(0 < spread["lowest"] <= spread["median"] <= spread["highest"] for spread in results.values())


def test_the_loader_benchmark_compares_both_sides(shards, tmp_path):
    report = tmp_path / "report.json"
    done = benchmark("loader", "--shards", shards, *SMALL, "--json", report)
    assert done.returncode == 0, done.stderr
    results = json.loads(report.read_text())["results"]
    assert set(results) == {"ffcv", "data_loader", "loader_ratio", "step_loaded", "step_resident", "step_ratio"}
    assert in_order(results)
    assert "FFCV + device augmentation" in done.stdout


def test_the_checkpoint_benchmark_compares_writing_beside_and_waiting(shards, tmp_path):
    report = tmp_path / "report.json"
    options = ("--every", 2, "--set", "optim.name=sgd", "--json", report)
    done = benchmark("checkpoint", "--shards", shards, *SMALL, *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert told["config"] == "configs/debug.yaml optim.name=sgd"
    assert set(told["results"]) == {"plain", "beside", "waited", "beside_ratio", "waited_ratio"}
    assert in_order(told["results"])
    assert told["checkpoint_bytes"] > 10_000
    assert "checkpoints written beside the steps" in done.stdout
    assert not list((ROOT / "runs").glob(".benchmark-*"))


def test_what_a_benchmark_says_itself_cannot_be_set(shards):
    done = benchmark("checkpoint", "--shards", shards, "--set", "train.batch_size=7")
    assert done.returncode == 2
    assert done.stderr == "error: --set train.batch_size: this benchmark says itself what that is\n"


@pytest.mark.parametrize("name", ["loader", "checkpoint", "step"])
def test_missing_shards_are_told_in_one_line(tmp_path, name):
    done = benchmark(name, "--shards", tmp_path / "none")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "manifest.json" in done.stderr


STEP = ("--batch-size", 48, "--steps", 3, "--rounds", 2, "--seconds", 0.1, "--config", "configs/debug.yaml")
PARTS = {"load", "copy", "augment", "forward", "backward", "count", "update", "report", "rest"}


def step_report(folder, shards, processes, *more):
    report = folder / "report.json"
    flags = ("--shards", shards, *STEP, "--json", report, *more)
    done = run(ForkedCommand(["-m", "benchmarks.step", *map(str, flags)], processes), timeout=200)
    assert done.returncode == 0, done.stderr
    return done, json.loads(report.read_text())


def test_the_step_benchmark_takes_a_step_apart(shards, tmp_path):
    done, told = step_report(tmp_path, shards, 0, "--trace", tmp_path / "trace.json")
    assert set(told["results"]) == {"trainer", "resident", "apart", "ratio"}
    assert in_order(told["results"])
    parts = told["milliseconds"]
    assert set(parts) == PARTS
    assert all(spread["lowest"] > 0 for spread in parts.values())
    # One and the same turns: what the parts take together is what the step took.
    whole = 1000 * 48 / told["results"]["apart"]["rounds"][0]
    assert sum(spread["rounds"][0] for spread in parts.values()) == pytest.approx(whole, rel=0.05)
    assert told["machine"]["flops_per_second"] > told["work"]["flops"] / 10
    assert told["work"]["bytes"] > 48 * 3 * 32 * 32 * 4
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    optimizer_steps = {event["ts"] for event in trace if event.get("name", "").startswith("Optimizer.step")}
    assert len(optimizer_steps) == 3
    assert "host waits between two reports: none" in done.stdout
    assert not list((ROOT / "runs").glob(".benchmark-*"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_step_between_two_reports_waits_for_the_device(shards, tmp_path, precision):
    """With everything on that a step may have."""
    config = yaml.safe_load((ROOT / "configs" / "debug.yaml").read_text())
    config["train"] |= {"accumulate": 2, "precision": precision}
    config["optim"] = {"name": "adamw", "clip_norm": 1.0, "ema_decay": 0.9, "weight_decay": 0.01}
    (tmp_path / "everything.yaml").write_text(yaml.safe_dump(config))
    _, told = step_report(tmp_path, shards, 0, "--config", tmp_path / "everything.yaml")
    assert told["host_waits"] == {}


def test_on_several_processes_rank_zero_tells_the_time_of_the_exchange(shards, tmp_path):
    done, told = step_report(tmp_path, shards, 2)
    assert set(told["milliseconds"]) == PARTS | {"exchange"}
    assert (told["processes"], told["host_waits"]) == (2, None)
    assert done.stdout.count("host waits") == 1


def test_host_waits_are_counted_by_name():
    with host_waits(torch.device("cpu")) as waits:
        numbers = torch.arange(3.0)
        numbers.add_(1).mean()
        numbers[torch.tensor([0, 2])] = 5.0
        assert waits == []
        numbers.sum().item()
        if numbers[0] > 0:
            float(numbers[1])
        numbers.tolist()
        numbers[numbers > 1]
    assert Counter(waits) == {"item": 1, "__bool__": 1, "__float__": 1, "tolist": 1, "__getitem__": 1}


def test_what_torchs_watch_says_of_itself_is_no_wait():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
    (wait,) = waits_among(told)
    assert wait.startswith("test_benchmarks.py:")


class Parts:
    """What `taken_apart` looks at, of a trainer and of its loader in one. It counts its calls."""

    def __init__(self):
        self.calls = Counter()
        self.augment = self.mix = self.source = self

    def __getattr__(self, name):
        if name == "read":
            return lambda: (self.calls.update(["read"]) or each for each in (1, 2))
        if name in ("training", "mixed", "forward_pass", "backward_pass", "count", "update", "report_steps"):
            return lambda: self.calls.update([name])
        raise AttributeError(name)


def test_each_part_is_timed_under_its_own_name_while_it_is_taken_apart():
    parts, clock = Parts(), Clock(torch.device("cpu"))
    names = {"training": "augment", "mixed": "augment", "forward_pass": "forward", "backward_pass": "backward"}
    names |= {"count": "count", "update": "update", "report_steps": "report"}
    with taken_apart(parts, parts, clock):
        for method, part in names.items():
            before = dict(clock.seconds)
            getattr(parts, method)()
            assert {name for name in clock.seconds if clock.seconds[name] != before.get(name)} == {part}
        assert list(parts.read()) == [1, 2]
    total = dict(clock.seconds)
    assert set(total) == {*names.values(), "load"}
    parts.update()
    assert clock.seconds == total
    assert parts.calls == {**dict.fromkeys(names, 1), "read": 2, "update": 2}


def test_work_is_counted_as_the_reference_counts_multiply_adds():
    model = parse_config(["--config", str(TINY)]).model
    images, labels = torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
    work = work_of(model, 10, images, labels, Precision("fp32", torch.device("cpu")))
    multiply_adds = sum(each.multiply_adds for each in profile_operators(Model(model.design(), 10).eval(), 32))
    assert work.flops == 2 * 3 * 4 * multiply_adds
    with FlopCounterMode(display=False) as counted:
        Model(model.design(), 10)(images)
    assert counted.get_total_flops() == work.flops / 3
    double = work_of(model, 10, images.repeat(2, 1, 1, 1), labels.repeat(2), Precision("fp32", torch.device("cpu")))
    assert 1.5 * work.bytes < double.bytes < 2 * work.bytes  # weights are read once


def test_traffic_is_what_operations_read_and_write_and_views_do_neither():
    a, b = torch.ones(2, 10, 10)
    with Traffic() as traffic:
        (a + b).view(100).unsqueeze(0)
    assert traffic.bytes == 3 * a.nbytes
