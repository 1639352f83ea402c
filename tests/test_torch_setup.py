"""Process-wide PyTorch settings."""

from programs import PYTHON, run

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


def test_freed_memory_is_reused_on_a_cpu():
    faults = {}
    for device in ("cpu", "cuda"):
        done = run([*PYTHON, "-c", COUNT_PAGE_FAULTS, device], timeout=60)
        assert done.returncode == 0, done.stderr
        faults[device] = int(done.stdout)
    # With a GPU the CPU allocator is not changed. On a CPU, a tensor may still need new pages occasionally.
    assert faults["cpu"] < faults["cuda"] / 5
