"""The CUDA context that is created while torch is imported: for which processes, and on which device."""

import os

import pytest
import torch
from processes import PYTHON, ROOT, TINY, run

from regnet.distributed.cuda_context import create_context, may_use_gpu

AUTO = ["--config", str(TINY), "--train.device", "auto"]


class Driver:
    """The CUDA driver of a node with `devices` GPUs."""

    def __init__(self, devices):
        self.devices, self.contexts = devices, []

    def cuInit(self, flags):  # the name in the driver's API
        return 0 if self.devices and flags == 0 else 100  # CUDA_ERROR_NO_DEVICE

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = 7 + ordinal  # a handle, not the ordinal
        return 0 if ordinal < self.devices else 101  # CUDA_ERROR_INVALID_DEVICE

    def cuDevicePrimaryCtxRetain(self, context, device):
        self.contexts.append(device.value)
        return 0


@pytest.mark.parametrize(("devices", "ordinal", "contexts"), [(2, 0, [7]), (2, 1, [8]), (1, 1, []), (0, 0, [])])
def test_the_context_is_that_of_the_local_rank_if_it_has_a_gpu(devices, ordinal, contexts):
    driver = Driver(devices)
    create_context(driver, ordinal)
    assert driver.contexts == contexts


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (AUTO, True),
        ([*AUTO, "--train.device", "cuda"], True),
        ([*AUTO, "--train.device=cpu"], False),
        (["--config", str(TINY)], False),  # whose device is cpu
        ([*AUTO, "--unknown", "1"], False),
        (["--config", "missing.yaml"], False),
        ([*AUTO, "--help"], False),
        ([*AUTO, "--print_config"], False),
    ],
)
def test_only_a_training_on_a_gpu_gets_a_context(arguments, expected, capsys):
    assert may_use_gpu(arguments) is expected
    assert capsys.readouterr() == ("", "")


def test_a_process_that_was_started_wrongly_gets_no_context(monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "two")
    assert not may_use_gpu(AUTO)


def test_the_arguments_are_examined_before_torch_is_imported():
    program = f"import sys; from regnet.distributed.cuda_context import may_use_gpu; may_use_gpu({AUTO}); "
    done = run([*PYTHON, "-c", program + "print('torch' in sys.modules)"], PYTHONPATH=str(ROOT))
    assert done.stdout == "False\n", done.stderr


@pytest.mark.gpu
def test_torch_uses_the_context_that_was_created():
    program = """
import ctypes, torch
from regnet.distributed.cuda_context import create_context
driver = ctypes.CDLL("libcuda.so.1")
create_context(driver, 0)
device, flags, active, current = ctypes.c_int(), ctypes.c_uint(), ctypes.c_int(), ctypes.c_void_p()
assert driver.cuDeviceGet(ctypes.byref(device), 0) == 0
driver.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active))
primary = ctypes.c_void_p()
driver.cuDevicePrimaryCtxRetain(ctypes.byref(primary), device)
torch.ones(1, device="cuda").sum().item()
driver.cuCtxGetCurrent(ctypes.byref(current))
print(active.value, current.value == primary.value)
"""
    assert torch.cuda.device_count()
    done = run([*PYTHON, "-c", program], PYTHONPATH=str(ROOT))
    assert done.stdout == "1 True\n", done.stderr
