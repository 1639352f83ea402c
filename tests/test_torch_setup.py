"""Process-wide PyTorch settings."""

import pytest
import torch
from processes import PYTHON, run

from regnet.config.schema import TrainConfig
from regnet.errors import UsageError
from regnet.training.torch_setup import configure_torch

COUNT_PAGE_FAULTS = """
import resource, sys, torch
from regnet.config.schema import TrainConfig
from regnet.training.torch_setup import configure_torch
configure_torch(0, TrainConfig(), torch.device(sys.argv[1]))
def allocate():
    for size in (1 << 20, 1 << 24, 1 << 25):  # 4, 64 and 128 MB
        torch.ones(size)
allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    allocate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.thorough
def test_freed_memory_is_reused_on_a_cpu():
    faults = {}
    for device in ("cpu", "cuda"):
        done = run([*PYTHON, "-c", COUNT_PAGE_FAULTS, device])
        assert done.returncode == 0, done.stderr
        faults[device] = int(done.stdout)
    # With a GPU the CPU allocator is not changed. On a CPU, a tensor may still need new pages occasionally.
    assert faults["cpu"] < faults["cuda"] / 5


@pytest.mark.parametrize(
    ("variables", "changed"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2", "GLIBC_TUNABLES": "glibc.pthread.rseq=1"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}, False),
    ],
)
def test_malloc_is_left_as_the_user_has_configured_it(monkeypatch, variables, changed):
    for name in ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr("regnet.training.torch_setup.keep_freed_memory", lambda: calls.append("changed"))
    configure_torch(0, TrainConfig(), torch.device("cpu"))
    assert bool(calls) == changed


def test_a_workspace_of_cublas_that_is_not_deterministic_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UsageError, match=r"CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8, got ':0:0': unset it"):
        configure_torch(0, TrainConfig(deterministic=True), torch.device("cuda"))
