"""What is set for the whole process."""

from programs import PYTHON, run

FAULTS_OF_LARGE_TENSORS = """
import resource, sys, torch
from regnet.config.schema import TrainConfig
from regnet.training.torch_setup import configure_torch
configure_torch(0, TrainConfig(), torch.device(sys.argv[1]))
def use():
    for size in (1 << 20, 1 << 24, 1 << 25):  # 4, 64 and 128 MB
        torch.ones(size)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_on_a_cpu_a_step_reuses_the_memory_of_the_last():
    faults = {}
    for device in ("cpu", "cuda"):
        done = run([*PYTHON, "-c", FAULTS_OF_LARGE_TENSORS, device], timeout=60)
        assert done.returncode == 0, done.stderr
        faults[device] = int(done.stdout)
    # Where memory is the device's the allocator is left alone. Now and then one of the tensors finds no room at first.
    assert faults["cpu"] < faults["cuda"] / 5
