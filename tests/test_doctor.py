"""The doctor, as a user starts it: what it says of a machine that is well, and of each fault."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import time
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
from nursery import ForkedCommand
from programs import PYTHON, TINY, TORCHRUN, kill_group, mounted_tmpfs, run, start

from data.errors import DataError
from regnet.config.schema import Config, DataConfig, ModelConfig, OptimConfig
from regnet.doctor.communication import Seat, check_launch, check_seats, speaks_for_its_like
from regnet.doctor.environment import check_device, cores, gpus, slurm
from regnet.doctor.findings import Status, guarded, in_bytes, in_seconds, merge, ok, stops
from regnet.doctor.requirements import step_bytes
from regnet.doctor.run_directory import mount_of

EVERYTHING = (
    *("python", "torch", "driver", "GPUs", "FFCV", "cores", "open files", "/dev/shm", "device", "shards", "batches"),
    *("memory", "run", "W&B", "disk", "run directory", "checkpoint", "ranks", "all-reduce"),
)


def doctor(runs_dir, shards, *flags, start=()):
    options = ["--config", TINY, "--runs_dir", runs_dir, "--data.shards", shards, *flags]
    command = [str(word) for word in (*start, "-m", "regnet.doctor", *options)]
    return command if start else ForkedCommand(command)


def findings(done):
    """By check, of a --json."""
    told = json.loads(done.stdout)
    assert told["stops"] is (done.returncode == 1), done.stderr
    assert done.returncode in (0, 1), done.stderr
    return {found["check"]: found for found in told["findings"]}


def stopping(found):
    return {check for check, entry in found.items() if entry["status"] == "stops"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def rank(number, port):
    """The environment of one of two ranks that plain srun would start."""
    return {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def damaged(shards, place):
    """A copy with one changed byte; the file that has it."""
    shutil.copytree(shards, place)
    path = next(place.glob("val-*.beton"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_where_all_is_well_nothing_stops_a_run_and_nothing_is_left_behind(shards, tmp_path):
    done = run(
        doctor(tmp_path / "runs", shards, "--tracking.wandb", "auto", "--json", start=PYTHON),
        HOME=str(tmp_path / "home"),
    )
    found = findings(done)
    assert done.returncode == 0
    assert tuple(found) == EVERYTHING
    assert {entry["status"] for entry in found.values()} <= {"ok", "note"}
    assert all(bool(entry["next"]) == (entry["status"] == "note") for entry in found.values())
    assert found["shards"]["measured"]["files"] == 6
    assert "1,000 + 200 images of 100 classes" in found["shards"]["saw"]
    assert found["checkpoint"]["measured"]["bytes"] > 100_000
    assert found["disk"]["measured"]["need"] == 4 * found["checkpoint"]["measured"]["bytes"]
    assert found["W&B"]["saw"] == "no key; tracking.wandb: auto, so recorded offline"
    assert "GPU" in found["device"]["saw"] or "train.device: cpu" in found["device"]["saw"]
    assert list(tmp_path.iterdir()) == []


def test_damaged_shards_a_full_disk_another_run_and_no_gpu_are_named_alike_in_table_and_json(shards, tmp_path):
    file = damaged(shards, tmp_path / ("a-long-name-" * 8))
    with mounted_tmpfs(tmp_path / "small", "size=100k") as small:
        (small / "tiny").mkdir()
        (small / "tiny" / "config.yaml").write_text(Config(name="tiny").to_yaml())
        (small / "tiny" / "fill").write_bytes(bytes(85_000))
        command = (small, file.parent, "--train.device", "cuda")
        told = [run(doctor(*command, *flags), CUDA_VISIBLE_DEVICES="") for flags in ((), ("--json",))]
        assert sorted(path.name for path in (small / "tiny").iterdir()) == ["config.yaml", "fill"]
    table, found = told[0].stdout, findings(told[1])
    assert [done.returncode for done in told] == [1, 1]
    assert stopping(found) == {"shards", "disk", "device", "run"}
    assert f"{file}: SHA-256" in found["shards"]["saw"]
    assert "python -m data.convert --overwrite" in found["shards"]["next"]
    assert "--runs_dir" in found["disk"]["next"]
    assert "was created with a different configuration" in found["run"]["saw"]
    assert "--name" in found["run"]["next"]
    assert "has 0 GPUs" in found["device"]["saw"]
    assert "--train.device cpu" in found["device"]["next"]
    assert "checkpoint" not in found, "a full disk is not tried"
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines if line[:1].strip()]
    said = [[*entry["status"].split(), *entry["check"].split()] for entry in found.values()]
    assert [cell[: len(words)] for cell, words in zip(cells, said, strict=False)] == said
    assert "something would stop a run" in lines[-1]
    flat = "".join(table.split())
    for entry in found.values():
        if entry["status"] == "stops":
            assert "".join(f"{entry['saw']} next: {entry['next']}".split()) in flat


def test_missing_shards_a_read_only_disk_too_large_a_batch_and_few_files_are_named(tmp_path):
    few = ("prlimit", "--nofile=512", *PYTHON)
    flags = ("--train.batch_size", 9_999_999, "--tracking.wandb", "online", "--json")
    with mounted_tmpfs(tmp_path / "ro", "ro") as place:
        done = run(doctor(place / "runs", tmp_path / "none", *flags, start=few), HOME=str(tmp_path))
    found = findings(done)
    assert done.returncode == 1
    assert stopping(found) == {"shards", "run directory", "memory"}
    assert f"{tmp_path / 'none'}: no manifest.json" in found["shards"]["saw"]
    assert "python -m data.convert" in found["shards"]["next"]
    assert found["run directory"]["saw"] == f"{place}: not writable (Read-only file system)"
    assert "--runs_dir" in found["run directory"]["next"]
    assert "--train.grad_accum_steps" in found["memory"]["next"]
    assert "ulimit -n" in found["open files"]["next"]
    assert "wandb login" in found["W&B"]["next"]


def test_a_run_at_work_and_a_batch_that_cannot_be_filled_are_named_and_the_lock_is_left_alone(shards, tmp_path):
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.yaml").touch()
    flags = ("--train.batch_size", 2000, "--data.drop_last", "true", "--json")
    with open(directory / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = findings(run(doctor(tmp_path, shards, *flags)))
    assert stopping(found) == {"run", "batches"}
    assert found["run"]["saw"] == f"{directory}: process {os.getpid()} is training this run"
    assert "do not fill one batch of 2000" in found["batches"]["saw"]


def test_a_wrong_option_is_wrong_usage_in_one_line():
    done = run([*PYTHON, "-m", "regnet.doctor", "--train.epoch", "3", "--json"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error (rank 0): unknown option --train.epoch (did you mean train.epochs?)\n"


def test_without_the_packages_it_says_how_to_install_them():
    done = run([*PYTHON, "-S", "-m", "regnet.doctor", "--json"])
    assert done.returncode == 1
    (found,) = findings(done).values()
    assert found["check"] == "installation"
    assert "make install" in found["next"]


def test_two_ranks_exchange_and_rank_zero_alone_tells(shards, tmp_path):
    done = run(doctor(tmp_path, shards, "--json", start=(*TORCHRUN, "--nproc_per_node=2")))
    found = findings(done)
    assert done.returncode == 0, done.stderr
    assert "2 processes here" in found["GPUs"]["saw"]
    assert "48 of 96 images" in found["batches"]["saw"]
    measured = found["all-reduce"]["measured"]
    assert measured["bytes"] == 4 * 10_764, "as the trainer counts its parameters"
    assert 0 < measured["small_seconds"] < 5
    assert measured["bytes_per_second"] == pytest.approx(measured["bytes"] / measured["seconds"])
    assert "gloo, 2 processes: one number in" in found["all-reduce"]["saw"]
    assert found["ranks"]["measured"] == {"processes": 2, "machines": 1}
    assert not any(entry["hosts"] for entry in found.values())


def test_what_differs_between_machines_is_told_by_host(shards, tmp_path):
    unshare = ("unshare", "--uts", "sh", "-c", 'hostname far-away && exec "$@"', "sh")
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=20).returncode != 0:
        pytest.skip("another host name takes root, and a container that may")
    file, port = damaged(shards, tmp_path / "there"), free_port()
    far = start(doctor(tmp_path, file.parent, start=(*unshare, *PYTHON)), **rank(1, port), GLOO_SOCKET_IFNAME="lo")
    try:
        found = findings(run(doctor(tmp_path, shards, "--json"), **rank(0, port), GLOO_SOCKET_IFNAME="lo"))
        out, err = far.communicate(timeout=30)
    finally:
        kill_group(far)
    assert far.returncode == 1, err
    assert out == "", "rank zero alone tells"
    assert stopping(found) == {"shards"}
    assert found["shards"]["hosts"] == ["far-away"]
    assert str(file) in found["shards"]["saw"]
    assert found["FFCV"]["hosts"] == []
    assert found["ranks"]["measured"] == {"processes": 2, "machines": 2}


def test_a_rank_that_never_comes_ends_it(shards, tmp_path):
    flags = ("--distributed.timeout", 3, "--json")
    alone = start(doctor(tmp_path, shards, *flags), **rank(1, free_port()))
    try:
        began = time.monotonic()
        found = findings(run(doctor(tmp_path, shards, *flags), **rank(0, free_port())))
        out, err = alone.communicate(timeout=30)
    finally:
        kill_group(alone)
    assert time.monotonic() - began < 30
    assert stopping(found) == {"ranks"}
    assert "rendezvous failed" in found["ranks"]["saw"]
    assert "WORLD_SIZE" in found["ranks"]["next"]
    assert found["checkpoint"]["status"] == "ok", "one process finds what it can"
    assert (alone.returncode, out) == (1, "")
    assert "failed (rank 1): rendezvous failed" in err


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_rank_that_dies_or_stops_is_named_beside_what_was_found(shards, tmp_path, how):
    port, flags = free_port(), ("--distributed.heartbeat_timeout", 4, "--json")
    ends = f"import os, signal, sys, regnet.doctor.command as c; c.check_device = lambda *_: os.kill(0, signal.{how})"
    program = [*PYTHON, "-c", f"{ends}; c.main(sys.argv[3:], 0)"]
    far = start([*program, *doctor(tmp_path, shards, *flags, start=PYTHON)[1:]], **rank(1, port))
    try:
        found = findings(run(doctor(tmp_path, shards, *flags), **rank(0, port)))
    finally:
        kill_group(far)
    assert stopping(found) == {"ranks"}
    assert found["ranks"]["saw"].startswith("rank 1 stopped responding")
    assert found["shards"]["status"] == "ok"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "no MASTER_ADDR and no MASTER_PORT"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "is no number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK 2 and LOCAL_RANK 0"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    ],
)
def test_a_wrong_launch_is_named(env, words):
    (found,) = check_launch(env)
    assert found.status is Status.stops
    assert words in found.saw
    assert check_launch({}) == check_launch(rank(1, "80")) == []


def seats(*places):
    return [Seat(host, number, 0, device, gpu) for number, (host, device, gpu) in enumerate(places)]


def test_one_process_speaks_for_those_that_fare_alike():
    several = seats(("a", "cuda", "x"), ("a", "", ""), ("a", "", ""), ("b", "", ""), ("a", "cuda", "y"))
    assert [speaks_for_its_like(seat, several) for seat in several] == [True, True, False, True, False]


def test_processes_that_do_not_go_together_are_named():
    fine = seats(("a", "cuda", "x"), ("a", "cuda", "y"), ("b", "cuda", "x"))
    assert check_seats(fine)[0].saw == "3 processes came: 2 on a, 1 on b"
    (mixed,) = check_seats(seats(("a", "cuda", "x"), ("b", "cpu", "")))
    assert mixed.status is Status.stops
    assert "leave out b" in mixed.next
    (shared,) = check_seats(seats(("a", "cuda", "x"), ("a", "cuda", "x")))
    assert "2 processes on a have the same GPU" in shared.saw
    assert "LOCAL_RANK" in shared.next


def test_the_allocation_is_told():
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "4", "SLURM_GPUS_ON_NODE": "8"}
    assert slurm({}) == []
    assert slurm(job)[0].saw == "job 7, 2 nodes, 4 tasks, 8 GPUs on this node, time left unknown"
    (soon,) = slurm({**job, "SLURM_JOB_END_TIME": str(time.time() + 130)})
    assert "2 min left" in soon.saw
    assert soon.status is Status.note
    (strangers,) = slurm({**job, "SLURM_STEP_NUM_TASKS": "4"})
    assert strangers.status is Status.stops
    assert slurm({**job, "SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "4"})[0].status is Status.ok


def test_gpus_are_counted_against_processes(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(name="H100", total_memory=85e9))
    assert gpus(Config(), 4) == [ok("GPUs", "4 x H100 85 GB; 4 processes here", count=4)]
    (idle,) = gpus(Config(), 3)
    assert "1 of them stay idle" in idle.next
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert check_device(Config(), 3)[0].saw == "cuda (train.device: auto)"
    (crowded,) = check_device(Config(), 4)
    assert crowded.status is Status.stops
    assert "has 4 GPUs, but local rank 4 needs one" in crowded.saw


def test_more_threads_than_cores_are_noted():
    (found,) = cores(Config(), 10_000)
    assert found.status is Status.note
    assert "--cpus-per-task" in found.next or "OMP_NUM_THREADS=1" in found.next


def test_the_file_system_of_a_path_is_the_innermost_mount(tmp_path):
    with mounted_tmpfs(tmp_path / "with space", "size=1m") as place:
        kind, options = mount_of(place / "below")
        assert kind == "tmpfs"
        assert "size=1024k" in options


def test_findings_of_machines_are_merged():
    same, other = ok("a", "as it should be", seconds=1), stops("a", "otherwise", "mend it")
    assert merge([("x", [same]), ("y", [ok("a", "as it should be", seconds=2)])]) == [same]
    one, two = merge([("x", [same]), ("y", [other]), ("z", [same])])
    assert (one.hosts, two.hosts) == (("x", "z"), ("y",))
    assert merge([("x", [same]), ("x", [other])]) == [same, other]


def test_a_defect_of_the_doctor_is_not_a_finding():
    def refuse():
        raise DataError("no such\nshards")

    assert guarded("shards", refuse, "find them", DataError) == [stops("shards", "no such shards", "find them")]
    with pytest.raises(DataError):
        guarded("shards", refuse, "find them", OSError)


def test_quantities_are_written_for_people():
    assert [in_bytes(count) for count in (7, 1234, 12_345, 9.1e6, 2e13)] == [
        "7 B",
        "1.2 kB",
        "12 kB",
        "9.1 MB",
        "20.0 TB",
    ]
    assert [in_seconds(seconds) for seconds in (3.14e-4, 0.0512, 3.26)] == ["314 us", "51.2 ms", "3.3 s"]


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimConfig)["name"]))
def test_every_optimiser_has_its_memory_counted(name):
    """More than SGD without momentum, which keeps nothing."""
    model, data = ModelConfig(depth=1, w_0=8), DataConfig(resolution=16)
    least = step_bytes(Config(model=model, data=data, optim=OptimConfig(name="sgd", momentum=0.0)), 100, 1)
    assert step_bytes(Config(model=model, data=data, optim=OptimConfig(name=name)), 100, 1) > least
