"""python -m regnet.doctor in one process: its findings on a node without problems, and for each kind of problem."""

import fcntl
import os
import socket

from disks import mounted_tmpfs
from doctor_command import copy_with_damage, doctor_command, failed_checks, printed_findings
from processes import PYTHON, run

from regnet.config.schema import Config
from regnet.doctor.run_directory import mount_of

ALL_CHECKS = (
    *("python", "torch", "driver", "GPUs", "FFCV", "cores", "open files", "/dev/shm", "device", "shards", "batches"),
    *("memory", "W&B", "run", "disk", "run directory", "checkpoint", "ranks", "all-reduce"),
)


def test_without_problems_nothing_fails_and_no_files_are_left(shards, tmp_path):
    done = run(
        doctor_command(tmp_path / "runs", shards, "--tracking.wandb", "auto", "--json", start=PYTHON),
        HOME=str(tmp_path / "home"),
    )
    found = printed_findings(done)
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
    file = copy_with_damage(shards, tmp_path / ("a-long-name-" * 8))
    with mounted_tmpfs(tmp_path / "small", "size=100k") as small:
        (small / "tiny").mkdir()
        (small / "tiny" / "config.yaml").write_text(Config(name="tiny").to_yaml())
        (small / "tiny" / "checkpoints").mkdir()
        (small / "tiny" / "checkpoints" / "step-000000001.pt").write_bytes(bytes(81_000))
        command = (small, file.parent, "--train.device", "cuda")
        both = [run(doctor_command(*command, *flags), CUDA_VISIBLE_DEVICES="") for flags in ((), ("--json",))]
        assert sorted(path.name for path in (small / "tiny").iterdir()) == ["checkpoints", "config.yaml"]
    table, found = both[0].stdout, printed_findings(both[1])
    assert [done.returncode for done in both] == [1, 1]
    assert failed_checks(found) == {"shards", "disk", "device", "run"}
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


def test_steps_per_epoch_are_limited_by_max_steps_per_epoch(shards, tmp_path):
    limits = {0: 11, 4: 4, 11: 11, 50: 11}  # 1,000 training images in batches of 96
    for limit, steps in limits.items():
        found = printed_findings(run(doctor_command(tmp_path, shards, "--train.max_steps_per_epoch", limit, "--json")))
        assert found["batches"]["measured"] == {"steps": steps}
        assert ("train.max_steps_per_epoch; 11 without it" in found["batches"]["message"]) is (steps == 4)


def test_overwriting_a_run_is_a_warning(shards, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.yaml").write_text(Config(name="tiny").to_yaml())
    found = printed_findings(run(doctor_command(tmp_path, shards, "--overwrite", "true", "--json")))
    assert failed_checks(found) == set()
    assert found["run"]["severity"] == "WARN"
    assert found["run"]["message"] == f"{tmp_path / 'tiny'}: --overwrite would delete this run"
    assert (tmp_path / "tiny" / "config.yaml").exists()


def test_missing_shards_a_read_only_disk_too_large_a_batch_and_few_open_files_are_reported(tmp_path):
    few = ("prlimit", "--nofile=512", *PYTHON)
    flags = ("--train.batch_size", 9_999_999, "--tracking.wandb", "online", "--json")
    with mounted_tmpfs(tmp_path / "ro", "ro") as read_only:
        done = run(doctor_command(read_only / "runs", tmp_path / "none", *flags, start=few), HOME=str(tmp_path))
    found = printed_findings(done)
    assert done.returncode == 1
    assert failed_checks(found) == {"shards", "run directory", "memory"}
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
        found = printed_findings(run(doctor_command(tmp_path, shards, *flags)))
    assert failed_checks(found) == {"run", "batches"}
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
    (finding,) = printed_findings(done).values()
    assert finding["check"] == "installation"
    assert "make install" in finding["fix"]


def test_the_file_system_of_a_path_is_the_innermost_mount(tmp_path):
    with mounted_tmpfs(tmp_path / "with space", "size=1m") as directory:
        kind, options = mount_of(directory / "below")
        assert kind == "tmpfs"
        assert "size=1024k" in options
