"""What the doctor says of a node: its driver, limits of its cgroups, shared memory, file systems."""

import pytest

from regnet.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from regnet.doctor import environment
from regnet.doctor.environment import available_cores, check_device, cores, driver, shared_memory
from regnet.doctor.findings import Severity, ok, warn
from regnet.doctor.requirements import check_memory, step_bytes
from regnet.doctor.run_directory import file_system_fix

CUDA_BUILD = "in the repository, run `.venv/bin/pip uninstall -y torch torchvision`, then `tools/install.sh`"

# The first line of /proc/driver/nvidia/version, of the open and of the proprietary module.
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U22)\nGCC 12\n"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"


@pytest.mark.parametrize(
    ("text", "cuda", "available", "expected"),
    [
        (OPEN, "13.0", True, ok("driver", "NVIDIA 570.86.15")),
        (PROPRIETARY, None, False, warn("driver", "NVIDIA 535.104.05, but PyTorch is built without CUDA", CUDA_BUILD)),
        (
            PROPRIETARY,
            "13.0",
            False,
            warn(
                "driver",
                "NVIDIA 535.104.05, but PyTorch finds no GPU",
                "check CUDA_VISIBLE_DEVICES; CUDA 13.0 may need a newer driver",
            ),
        ),
        ("", "13.0", True, ok("driver", "NVIDIA of unknown version")),
    ],
)
def test_the_driver_is_named_and_compared_with_pytorch(tmp_path, monkeypatch, text, cuda, available, expected):
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(environment, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    assert driver() == [expected]


@pytest.mark.parametrize(
    ("cuda", "count", "cure"),
    [
        (None, 0, f"PyTorch is built without CUDA: {CUDA_BUILD}, or use --train.device cpu"),
        ("13.0", 0, "request a GPU (SLURM: --gpus-per-node)"),
        ("13.0", 1, "start at most one process per GPU"),
    ],
)
def test_a_process_without_a_gpu_is_told_how_to_get_one(monkeypatch, cuda, count, cure):
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    (finding,) = check_device(Config(train=TrainConfig(device="cuda")), 1)
    assert finding.severity is Severity.fail
    assert finding.fix.startswith(cure)


def test_little_shared_memory_is_a_warning_if_nccl_needs_it(monkeypatch):
    monkeypatch.setattr(environment, "_MIN_SHM", 1 << 60)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert shared_memory()[0].severity is Severity.ok
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    (finding,) = shared_memory()
    assert (finding.severity, finding.fix) == (Severity.warn, "NCCL may need more: docker run --shm-size=8g")
    assert finding.message.endswith(" free")


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A cgroup of this process."""
    monkeypatch.setattr(environment, "_CGROUPS", tmp_path)
    return tmp_path


def test_a_quota_of_the_cgroup_limits_the_cores(cgroup):
    unlimited = available_cores()
    (cgroup / "cpu.max").write_text("max 100000\n")
    assert available_cores() == unlimited
    (cgroup / "cpu.max").write_text("50000 100000\n")
    assert available_cores() == 0.5
    (finding,) = cores(Config(), 1)
    assert finding.severity is Severity.warn
    assert finding.message.startswith("0.5 of ")


def test_the_memory_of_a_step_is_compared_with_what_the_cgroup_leaves_free(cgroup):
    model, data = ModelConfig(depth=1, w_0=8), DataConfig(shards=str(cgroup / "none"), resolution=16)
    config = Config(model=model, data=data, train=TrainConfig(device="cpu"))
    need = step_bytes(config, 100, 1)

    def memory(free, processes=1):
        """The limit leaves `free` bytes, of which all but 100 are in the page cache; 1,000 are of files in tmpfs."""
        for name, content in {
            "memory.max": f"{free + 10_000}\n",
            "memory.current": f"{free - 100 + 10_000}\n",
            "memory.stat": f"anon 9000\nfile {free - 100 + 1000}\ninactive_file 50\nactive_file {free - 150}\n",
        }.items():
            (cgroup / name).write_text(content)
        (finding,) = check_memory(config, 1, processes, 0)
        assert finding.measured == {"need": processes * need, "free": free}
        return finding.severity

    assert memory(2 * need) is Severity.ok
    assert memory(2 * need, processes=3) is Severity.fail
    assert memory(need + need // 4) is Severity.warn
    assert memory(need - 1) is Severity.fail
    (cgroup / "memory.max").write_text("max\n")
    assert check_memory(config, 1, 1, 0)[0].severity is Severity.ok, "as much as the node has"


@pytest.mark.parametrize(
    ("kind", "options", "seconds", "fix"),
    [
        ("ext4", ["rw"], 0.001, ""),
        ("nfs4", ["rw", "local_lock=none"], 0.1, ""),
        ("tmpfs", ["rw"], 0.001, "files are lost after a reboot: use a --runs_dir on a persistent disk"),
        ("overlay", ["rw"], 0.001, "files are lost after the container exits: use a --runs_dir on a persistent disk"),
        ("nfs", ["rw", "local_lock=all"], 0.5, "locks are not visible to other nodes: never start a run twice"),
        ("lustre", ["rw", "localflock"], 0.001, "locks are not visible to other nodes: never start a run twice"),
        ("lustre", ["flock"], 0.11, "slow: use large values of --checkpoint.every_steps and --tracking.log_every"),
    ],
)
def test_file_systems_that_lose_files_share_no_locks_or_are_slow_are_warned_of(kind, options, seconds, fix):
    assert file_system_fix(kind, options, seconds) == fix
