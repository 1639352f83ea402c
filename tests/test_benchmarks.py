"""The loader, checkpoint and step benchmarks run and report; measured speeds are not judged."""

import json
import warnings
from collections import Counter

import pytest
import torch
import yaml
from fork_server import ForkedCommand
from processes import ROOT, TINY, run
from thoroughness import parametrize_some
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step.machine import Traffic, work_of
from benchmarks.step.parts import Clock, timed_parts
from benchmarks.step.waits import host_waits, sync_warnings
from regnet.config.parser import parse_config
from regnet.models.complexity import profile_operators
from regnet.models.regnet import Model
from regnet.training.amp import Precision

pytestmark = pytest.mark.xdist_group("benchmarks")  # these tests check that runs/ is left clean

SMALL = ("--batch-size", 50, "--rounds", 1, "--seconds", 0.3, "--config", "configs/debug.yaml")


def run_benchmark(name, *options):
    return run(ForkedCommand(["-m", f"benchmarks.{name}", *map(str, options)]))


def in_order(results):
    return all(0 < spread["lowest"] <= spread["median"] <= spread["highest"] for spread in results.values())


def test_the_loader_benchmark_compares_both_loaders(shards, tmp_path):
    report = tmp_path / "report.json"
    finished = run_benchmark("loader", "--shards", shards, *SMALL, "--json", report)
    assert finished.returncode == 0, finished.stderr
    results = json.loads(report.read_text())["results"]
    assert set(results) == {"ffcv", "data_loader", "loader_ratio", "step_loaded", "step_resident", "step_ratio"}
    assert in_order(results)
    assert "FFCV + device augmentation" in finished.stdout


def test_the_checkpoint_benchmark_compares_asynchronous_and_synchronous_writing(shards, tmp_path):
    report = tmp_path / "report.json"
    options = ("--every", 2, "--set", "optim.name=sgd", "--json", report)
    finished = run_benchmark("checkpoint", "--shards", shards, *SMALL, *options)
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(report.read_text())
    assert measured["config"] == "configs/debug.yaml optim.name=sgd"
    assert set(measured["results"]) == {"none", "async", "sync", "async_ratio", "sync_ratio"}
    assert in_order(measured["results"])
    assert measured["checkpoint_bytes"] > 10_000
    assert "asynchronous checkpoints" in finished.stdout
    assert not list((ROOT / "runs").glob(".benchmark-*"))


def test_options_that_a_benchmark_sets_itself_are_rejected(shards):
    finished = run_benchmark("checkpoint", "--shards", shards, "--set", "train.batch_size=7")
    assert finished.returncode == 2
    assert finished.stderr == "error: --set train.batch_size: this benchmark sets train.batch_size itself\n"


@pytest.mark.parametrize("name", ["loader", "checkpoint", "step"])
def test_missing_shards_are_reported_in_one_line(tmp_path, name):
    finished = run_benchmark(name, "--shards", tmp_path / "none")
    assert finished.returncode == 2
    assert len(finished.stderr.strip().splitlines()) == 1
    assert "manifest.json" in finished.stderr


STEP = ("--batch-size", 48, "--steps", 3, "--rounds", 2, "--seconds", 0.1, "--config", "configs/debug.yaml")
PARTS = {"load", "copy", "augment", "forward", "backward", "count", "update", "report", "rest"}


def step_report(folder, shards, processes, *more):
    report = folder / "report.json"
    flags = ("--shards", shards, *STEP, "--json", report, *more)
    finished = run(ForkedCommand(["-m", "benchmarks.step", *map(str, flags)], processes))
    assert finished.returncode == 0, finished.stderr
    return finished, json.loads(report.read_text())


def test_the_step_benchmark_times_the_parts_of_a_step(shards, tmp_path):
    finished, measured = step_report(tmp_path, shards, 0, "--trace", tmp_path / "trace.json")
    assert set(measured["results"]) == {"trainer", "resident", "apart", "ratio"}
    assert in_order(measured["results"])
    parts = measured["milliseconds"]
    assert set(parts) == PARTS
    assert all(spread["lowest"] > 0 for spread in parts.values())
    # Both come from the same epochs, so the parts add up to the step.
    total = 1000 * 48 / measured["results"]["apart"]["rounds"][0]
    assert sum(spread["rounds"][0] for spread in parts.values()) == pytest.approx(total, rel=0.05)
    assert measured["machine"]["flops_per_second"] > measured["work"]["flops"] / 10
    assert measured["work"]["bytes"] > 48 * 3 * 32 * 32 * 4
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    optimizer_steps = {event["ts"] for event in trace if event.get("name", "").startswith("Optimizer.step")}
    assert len(optimizer_steps) == 3
    assert "host waits between two reports: none" in finished.stdout
    assert f"kernels a step: {measured['kernels']['total']}" in finished.stdout
    assert not list((ROOT / "runs").glob(".benchmark-*"))


@parametrize_some("precision", ["fp16", "fp32"])
def test_steps_between_two_reports_do_not_wait_for_the_device(shards, tmp_path, precision):
    """With every option that affects a step."""
    config = yaml.safe_load((ROOT / "configs" / "debug.yaml").read_text())
    config["train"] |= {"grad_accum_steps": 2, "precision": precision}
    config["optim"] = {"name": "adamw", "clip_norm": 1.0, "ema_decay": 0.9, "weight_decay": 0.01}
    (tmp_path / "everything.yaml").write_text(yaml.safe_dump(config))
    _, measured = step_report(tmp_path, shards, 0, "--config", tmp_path / "everything.yaml")
    assert measured["host_waits"] == {}


def test_with_several_processes_rank_0_reports_the_time_of_the_exchange(shards, tmp_path):
    finished, measured = step_report(tmp_path, shards, 2)
    assert set(measured["milliseconds"]) == PARTS | {"exchange"}
    assert (measured["processes"], measured["host_waits"]) == (2, None)
    assert finished.stdout.count("host waits") == 1


def test_host_waits_are_recorded_by_name():
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


def test_the_prototype_warning_of_torch_is_not_a_host_wait():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
    (wait,) = sync_warnings(warned)
    assert wait.startswith("test_benchmarks.py:")


class FakeTrainer:
    """The methods of a trainer and its loader that `timed_parts` wraps; counts their calls."""

    def __init__(self):
        self.calls = Counter()
        self.train_step = self.reader = self.pipeline = self

    def at(self, side):
        return lambda: self.calls.update([f"augment to {side}"])

    def __getattr__(self, name):
        if name == "read":
            return lambda: (self.calls.update(["read"]) or each for each in (1, 2))
        if name in ("forward_pass", "backward_pass", "update_metrics", "update", "report_steps"):
            return lambda: self.calls.update([name])
        raise AttributeError(name)


def test_each_part_is_timed_under_its_name_within_the_context():
    fake, clock = FakeTrainer(), Clock(torch.device("cpu"))
    names = {"forward_pass": "forward", "backward_pass": "backward"}
    names |= {"update_metrics": "count", "update": "update", "report_steps": "report"}
    with timed_parts(fake, fake, clock):
        for method, part in names.items():
            before = dict(clock.seconds)
            getattr(fake, method)()
            assert {name for name in clock.seconds if clock.seconds[name] != before.get(name)} == {part}
        fake.at(32)()
        assert list(fake.read()) == [1, 2]
    total = dict(clock.seconds)
    assert set(total) == {*names.values(), "augment", "load"}
    fake.update()
    fake.at(32)()
    assert clock.seconds == total
    assert fake.calls == {**dict.fromkeys(names, 1), "augment to 32": 2, "read": 2, "update": 2}


def test_flops_agree_with_the_multiply_adds_of_the_summary():
    model = parse_config(["--config", str(TINY)]).model
    images, labels = torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
    work = work_of(model, 10, images, labels, Precision("fp32", torch.device("cpu")))
    multiply_adds = sum(each.multiply_adds for each in profile_operators(Model(model.design(), 10).eval(), 32))
    assert work.flops == 2 * 3 * 4 * multiply_adds
    with FlopCounterMode(display=False) as counted:
        Model(model.design(), 10)(images)
    assert counted.get_total_flops() == work.flops / 3
    double = work_of(model, 10, images.repeat(2, 1, 1, 1), labels.repeat(2), Precision("fp32", torch.device("cpu")))
    assert 1.5 * work.bytes < double.bytes < 2 * work.bytes  # weights are read once per step


def test_traffic_counts_reads_and_writes_but_no_views():
    a, b = torch.ones(2, 10, 10)
    with Traffic() as traffic:
        (a + b).view(100).unsqueeze(0)
    assert traffic.bytes == 3 * a.nbytes
