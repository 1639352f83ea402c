"""Single checks of the doctor, and how findings are shown."""

import time
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest

from data.errors import DataError
from regnet.config.schema import Config, DataConfig, ModelConfig, OptimConfig
from regnet.doctor.environment import check_device, cores, gpus, slurm
from regnet.doctor.findings import Severity, fail, format_bytes, format_seconds, guarded, ok, warn
from regnet.doctor.output import print_table
from regnet.doctor.requirements import step_bytes


def test_the_last_line_of_the_table_counts_the_findings(capsys):
    print_table([ok("a", "fine"), ok("b", "fine"), warn("c", "odd", "look at it")], seconds=1.25)
    assert capsys.readouterr().out.splitlines()[-1] == "A run can start: 2 ok, 1 WARN, 0 FAIL (1.2 s)"
    print_table([ok("a", "fine"), fail("b", "broken", "repair it")], seconds=0)
    assert capsys.readouterr().out.splitlines() == [
        "ok    a  fine",
        "FAIL  b  broken",
        "         fix: repair it",
        "A run would fail: 1 ok, 0 WARN, 1 FAIL (0.0 s)",
    ]


def test_the_table_is_as_wide_as_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # standard output counts as a terminal
    finding = fail("disk", "word " * 22, "free disk space")
    for columns, lines in ((160, 3), (60, 5)):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_table([finding], seconds=0)
        printed = capsys.readouterr().out
        assert printed.count("\n") == lines
        assert "\x1b[1;31mFAIL" in printed


def test_the_slurm_allocation_is_reported():
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "4", "SLURM_GPUS_ON_NODE": "8"}
    assert slurm({}) == []
    assert slurm(job)[0].message == "job 7, 2 nodes, 4 tasks, 8 GPUs on this node, time left unknown"
    (soon,) = slurm({**job, "SLURM_JOB_END_TIME": str(time.time() + 130)})
    assert "2 min left" in soon.message
    assert soon.severity is Severity.warn


def test_numbers_of_gpus_and_processes_are_compared(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(name="H100", total_memory=85e9))
    assert gpus(Config(), 4) == [ok("GPUs", "4 x H100 85 GB; 4 processes on this node", count=4)]
    (idle,) = gpus(Config(), 3)
    assert "1 would be idle: use --nproc_per_node=4" in idle.fix
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert check_device(Config(), 3)[0].message == "cuda (train.device: auto)"
    (crowded,) = check_device(Config(), 4)
    assert crowded.severity is Severity.fail
    assert "has 4 GPUs, but local rank 4 needs one" in crowded.message


def test_more_threads_than_cores_are_a_warning():
    (finding,) = cores(Config(), 10_000)
    assert finding.severity is Severity.warn
    assert "--cpus-per-task" in finding.fix or "OMP_NUM_THREADS=1" in finding.fix


def test_unexpected_exceptions_are_not_findings():
    def check():
        raise DataError("no such\nshards")

    assert guarded("shards", check, "write them", DataError) == [fail("shards", "no such shards", "write them")]
    with pytest.raises(DataError):
        guarded("shards", check, "write them", OSError)


def test_bytes_and_seconds_have_readable_units():
    assert [format_bytes(count) for count in (7, 1234, 12_345, 9.1e6, 2e13)] == [
        "7 B",
        "1.2 kB",
        "12 kB",
        "9.1 MB",
        "20.0 TB",
    ]
    assert [format_seconds(seconds) for seconds in (3.14e-4, 0.0512, 3.26)] == ["314 us", "51.2 ms", "3.3 s"]


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimConfig)["name"]))
def test_the_state_of_every_optimiser_is_counted(name):
    """SGD without momentum has none."""
    model, data = ModelConfig(depth=1, w_0=8), DataConfig(resolution=16)
    without_state = step_bytes(Config(model=model, data=data, optim=OptimConfig(name="sgd", momentum=0.0)), 100, 1)
    assert step_bytes(Config(model=model, data=data, optim=OptimConfig(name=name)), 100, 1) > without_state
