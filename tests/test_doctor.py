"""python -m regnet.doctor: its findings on a node without problems, and for each kind of problem."""

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
from disks import mounted_tmpfs
from fork_server import ForkedCommand
from limits import LIMIT, scaled
from processes import PYTHON, TINY, TORCHRUN, kill_group, run, start
from thoroughness import parametrize_some

from data.errors import DataError
from regnet.config.schema import Config, DataConfig, ModelConfig, OptimConfig
from regnet.doctor.communication import ProcessInfo, check_launch, check_placement, reports_device
from regnet.doctor.environment import check_device, cores, gpus, slurm
from regnet.doctor.findings import Severity, fail, format_bytes, format_seconds, guarded, merge, ok, warn
from regnet.doctor.output import print_table
from regnet.doctor.requirements import step_bytes
from regnet.doctor.run_directory import mount_of

ALL_CHECKS = (
    *("python", "torch", "driver", "GPUs", "FFCV", "cores", "open files", "/dev/shm", "device", "shards", "batches"),
    *("memory", "W&B", "run", "disk", "run directory", "checkpoint", "ranks", "all-reduce"),
)


def doctor(runs_dir, shards, *flags, start=()):
    options = ["--config", TINY, "--runs_dir", runs_dir, "--data.shards", shards, *flags]
    command = [str(word) for word in (*start, "-m", "regnet.doctor", *options)]
    return command if start else ForkedCommand(command)


def findings(done):
    """The findings that --json printed, by check."""
    printed = json.loads(done.stdout)
    assert printed["failed"] is (done.returncode == 1), done.stderr
    assert done.returncode in (0, 1), done.stderr
    return {finding["check"]: finding for finding in printed["findings"]}


def failed(found):
    return {check for check, finding in found.items() if finding["severity"] == "FAIL"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def rank(number, port):
    """The environment of one of two ranks, as srun without torchrun sets it."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", **address}


def damaged(shards, copy):
    """Copies the shards and changes one byte; returns the damaged file."""
    shutil.copytree(shards, copy)
    path = next(copy.glob("val-*.beton"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_without_problems_nothing_fails_and_no_files_are_left(shards, tmp_path):
    done = run(
        doctor(tmp_path / "runs", shards, "--tracking.wandb", "auto", "--json", start=PYTHON),
        HOME=str(tmp_path / "home"),
    )
    found = findings(done)
    assert done.returncode == 0
    assert tuple(found) == ALL_CHECKS
    assert {finding["severity"] for finding in found.values()} <= {"ok", "WARN"}
    assert all(bool(finding["fix"]) == (finding["severity"] == "WARN") for finding in found.values())
    assert found["shards"]["measured"]["files"] == 6
    assert "1,000 training and 200 validation images, 100 classes" in found["shards"]["message"]
    assert found["checkpoint"]["measured"]["bytes"] > 100_000
    assert found["disk"]["measured"]["need"] == 4 * found["checkpoint"]["measured"]["bytes"]
    assert found["W&B"]["message"] == "no API key, logs offline (tracking.wandb: auto)"
    assert "GPU" in found["device"]["message"] or "train.device: cpu" in found["device"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_damaged_shards_a_full_disk_another_run_and_no_gpu_fail_in_table_and_json(shards, tmp_path):
    file = damaged(shards, tmp_path / ("a-long-name-" * 8))
    with mounted_tmpfs(tmp_path / "small", "size=100k") as small:
        (small / "tiny").mkdir()
        (small / "tiny" / "config.yaml").write_text(Config(name="tiny").to_yaml())
        (small / "tiny" / "checkpoints").mkdir()
        (small / "tiny" / "checkpoints" / "step-000000001.pt").write_bytes(bytes(81_000))
        command = (small, file.parent, "--train.device", "cuda")
        both = [run(doctor(*command, *flags), CUDA_VISIBLE_DEVICES="") for flags in ((), ("--json",))]
        assert sorted(path.name for path in (small / "tiny").iterdir()) == ["checkpoints", "config.yaml"]
    table, found = both[0].stdout, findings(both[1])
    assert [done.returncode for done in both] == [1, 1]
    assert failed(found) == {"shards", "disk", "device", "run"}
    assert f"{file}: SHA-256" in found["shards"]["message"]
    assert "python -m data.convert --overwrite" in found["shards"]["fix"]
    assert "--runs_dir" in found["disk"]["fix"]
    assert "was created with a different configuration" in found["run"]["message"]
    assert "--name" in found["run"]["fix"]
    assert found["device"]["message"].startswith(
        f"no GPU found on {socket.gethostname()} with CUDA_VISIBLE_DEVICES= (local rank 0)"
    )
    assert "--train.device cpu" in found["device"]["fix"]
    assert "checkpoint" not in found, "no checkpoint is written to a full disk"
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines if line[:1].strip()]
    expected = [[finding["severity"], *finding["check"].split()] for finding in found.values()]
    assert [row[: len(start)] for row, start in zip(cells, expected, strict=False)] == expected
    assert lines[-1].startswith("A run would fail: ")
    flat = "".join(table.split())
    for finding in found.values():
        if finding["severity"] == "FAIL":
            assert "".join(f"{finding['message']} fix: {finding['fix']}".split()) in flat


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


def test_steps_per_epoch_are_limited_by_max_steps_per_epoch(shards, tmp_path):
    limits = {0: 11, 4: 4, 11: 11, 50: 11}  # 1,000 training images in batches of 96
    for limit, steps in limits.items():
        found = findings(run(doctor(tmp_path, shards, "--train.max_steps_per_epoch", limit, "--json")))
        assert found["batches"]["measured"] == {"steps": steps}
        assert ("train.max_steps_per_epoch; 11 without it" in found["batches"]["message"]) is (steps == 4)


def test_overwriting_a_run_is_a_warning(shards, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.yaml").write_text(Config(name="tiny").to_yaml())
    found = findings(run(doctor(tmp_path, shards, "--overwrite", "true", "--json")))
    assert failed(found) == set()
    assert found["run"]["severity"] == "WARN"
    assert found["run"]["message"] == f"{tmp_path / 'tiny'}: --overwrite would delete this run"
    assert (tmp_path / "tiny" / "config.yaml").exists()


def test_missing_shards_a_read_only_disk_too_large_a_batch_and_few_open_files_are_reported(tmp_path):
    few = ("prlimit", "--nofile=512", *PYTHON)
    flags = ("--train.batch_size", 9_999_999, "--tracking.wandb", "online", "--json")
    with mounted_tmpfs(tmp_path / "ro", "ro") as read_only:
        done = run(doctor(read_only / "runs", tmp_path / "none", *flags, start=few), HOME=str(tmp_path))
    found = findings(done)
    assert done.returncode == 1
    assert failed(found) == {"shards", "run directory", "memory"}
    assert f"{tmp_path / 'none'}: no manifest.json" in found["shards"]["message"]
    assert "python -m data.convert" in found["shards"]["fix"]
    assert found["run directory"]["message"] == f"{read_only}: not writable (Read-only file system)"
    assert "--runs_dir" in found["run directory"]["fix"]
    assert "--train.grad_accum_steps" in found["memory"]["fix"]
    assert "ulimit -n" in found["open files"]["fix"]
    assert "wandb login" in found["W&B"]["fix"]


def test_a_running_run_and_too_small_a_batch_are_reported_without_touching_the_lock(shards, tmp_path):
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.yaml").touch()
    flags = ("--train.batch_size", 1, "--json")
    with open(directory / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = findings(run(doctor(tmp_path, shards, *flags)))
    assert failed(found) == {"run", "batches"}
    assert found["run"]["message"] == f"{directory}: process {os.getpid()} is training this run"
    assert "train.batch_size is 1, but BatchNorm needs 2" in found["batches"]["message"]


def test_an_unknown_option_is_a_one_line_usage_error():
    done = run([*PYTHON, "-m", "regnet.doctor", "--train.epoch", "3", "--json"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown option --train.epoch (did you mean train.epochs?)\n"


def test_missing_packages_are_reported_with_how_to_install_them():
    done = run([*PYTHON, "-S", "-m", "regnet.doctor", "--json"])
    assert done.returncode == 1
    (finding,) = findings(done).values()
    assert finding["check"] == "installation"
    assert "make install" in finding["fix"]


def test_two_ranks_exchange_data_and_only_rank_zero_prints(shards, tmp_path):
    done = run(doctor(tmp_path, shards, "--json", start=(*TORCHRUN, "--nproc_per_node=2")))
    found = findings(done)
    assert done.returncode == 0, done.stderr
    assert "2 processes on this node" in found["GPUs"]["message"]
    assert "48 of 96 images per process" in found["batches"]["message"]
    measured = found["all-reduce"]["measured"]
    assert measured["bytes"] == 4 * 10_764, "4 bytes for each parameter"
    assert 0 < measured["small_seconds"] < 5
    assert measured["bytes_per_second"] == pytest.approx(measured["bytes"] / measured["seconds"])
    assert "gloo, 2 processes: one number takes" in found["all-reduce"]["message"]
    assert found["ranks"]["measured"] == {"processes": 2, "nodes": 1}
    assert not any(finding["hosts"] for finding in found.values())


def test_findings_that_differ_between_nodes_name_their_nodes(shards, tmp_path):
    unshare = ("unshare", "--uts", "sh", "-c", 'hostname far-away && exec "$@"', "sh")
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=LIMIT).returncode != 0:
        pytest.skip("changing the host name requires root, and a container that permits it")
    file, port = damaged(shards, tmp_path / "there"), free_port()
    far = start(doctor(tmp_path, file.parent, start=(*unshare, *PYTHON)), **rank(1, port), GLOO_SOCKET_IFNAME="lo")
    try:
        found = findings(run(doctor(tmp_path, shards, "--json"), **rank(0, port), GLOO_SOCKET_IFNAME="lo"))
        out, err = far.communicate(timeout=LIMIT)
    finally:
        kill_group(far)
    assert far.returncode == 1, err
    assert out == "", "only rank zero prints"
    assert failed(found) == {"shards"}
    assert found["shards"]["hosts"] == ["far-away"]
    assert str(file) in found["shards"]["message"]
    assert found["FFCV"]["hosts"] == []
    assert found["ranks"]["measured"] == {"processes": 2, "nodes": 2}


def test_a_rank_that_does_not_start_is_reported(shards, tmp_path):
    flags = ("--distributed.timeout", 3, "--json")
    other = start(doctor(tmp_path, shards, *flags), **rank(1, free_port()))
    try:
        found = findings(run(doctor(tmp_path, shards, *flags), **rank(0, free_port())))
        out, err = other.communicate(timeout=LIMIT)
    finally:
        kill_group(other)
    assert failed(found) == {"ranks"}
    assert "rendezvous failed" in found["ranks"]["message"]
    assert "WORLD_SIZE" in found["ranks"]["fix"]
    assert found["checkpoint"]["severity"] == "ok", "checks that need one process only are done"
    assert (other.returncode, out) == (1, "")
    assert "failed (rank 1): rendezvous failed" in err


@parametrize_some("how", ["SIGKILL", "SIGSTOP"])
def test_a_rank_that_dies_or_hangs_is_reported_with_the_other_findings(shards, tmp_path, how):
    port, flags = free_port(), ("--distributed.heartbeat_timeout", scaled(4), "--json")
    fault = f"import os, signal, sys, regnet.doctor.command as c; c.check_device = lambda *_: os.kill(0, signal.{how})"
    program = [*PYTHON, "-c", f"{fault}; c.main(sys.argv[3:], 0)"]
    far = start([*program, *doctor(tmp_path, shards, *flags, start=PYTHON)[1:]], **rank(1, port))
    try:
        found = findings(run(doctor(tmp_path, shards, *flags), **rank(0, port)))
    finally:
        kill_group(far)
    assert failed(found) == {"ranks"}
    assert found["ranks"]["message"].startswith("rank 1 stopped responding")
    assert found["shards"]["severity"] == "ok"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun has started several processes"),
    ],
)
def test_invalid_launch_variables_fail(env, words):
    (finding,) = check_launch(env)
    assert finding.severity is Severity.fail
    assert words in finding.message
    assert finding.fix
    assert check_launch({}) == check_launch(rank(1, "80")) == []


def processes(*infos):
    return [ProcessInfo(host, rank, 0, device, gpu) for rank, (host, device, gpu) in enumerate(infos)]


def test_one_process_per_node_and_type_of_device_reports_its_device():
    several = processes(("a", "cuda", "x"), ("a", "", ""), ("a", "", ""), ("b", "", ""), ("a", "cuda", "y"))
    assert [reports_device(process, several) for process in several] == [True, True, False, True, False]


def test_processes_with_different_devices_or_a_shared_gpu_fail():
    separate = processes(("a", "cuda", "x"), ("a", "cuda", "y"), ("b", "cuda", "x"))
    assert check_placement(separate)[0].message == "3 processes: 2 on a, 1 on b"
    (mixed,) = check_placement(processes(("a", "cuda", "x"), ("b", "cpu", "")))
    assert mixed.severity is Severity.fail
    assert "exclude b" in mixed.fix
    (shared,) = check_placement(processes(("a", "cuda", "x"), ("a", "cuda", "x")))
    assert "2 processes on a have the same GPU" in shared.message
    assert "LOCAL_RANK" in shared.fix


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


def test_the_file_system_of_a_path_is_the_innermost_mount(tmp_path):
    with mounted_tmpfs(tmp_path / "with space", "size=1m") as directory:
        kind, options = mount_of(directory / "below")
        assert kind == "tmpfs"
        assert "size=1024k" in options


def test_findings_of_nodes_are_merged():
    same, other = ok("a", "as expected", seconds=1), fail("a", "different", "repair it")
    assert merge([("x", [same]), ("y", [ok("a", "as expected", seconds=2)])]) == [same]
    one, two = merge([("x", [same]), ("y", [other]), ("z", [same])])
    assert (one.hosts, two.hosts) == (("x", "z"), ("y",))
    assert merge([("x", [same]), ("x", [other])]) == [same, other]


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
