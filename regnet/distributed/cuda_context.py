"""The CUDA context of this process, created while Python imports torch: each takes a good part of a second.

It is the device's primary context, which torch's CUDA runtime uses as well: see "Primary Context" in the CUDA driver
API. The context is only created earlier; whatever fails here fails again, with its message, when torch needs it.
"""

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

from commandline.errors import InputError
from regnet.config.parser import parse_config
from regnet.distributed.launcher import read_launch

_LIBRARY = "libcuda.so.1"  # the driver's; without it there is no GPU
_PRINTING = {"-h", "--help", "--print_config"}  # options that print something instead of training


def create_context_in_background(argv: Sequence[str]) -> None:
    """Starts to create the context of this process's GPU, unless these command-line arguments use none."""
    threading.Thread(target=_create, args=(list(argv),), daemon=True).start()


def _create(argv: Sequence[str]) -> None:
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return
    if may_use_gpu(argv):
        create_context(driver, read_launch().local_rank)


def may_use_gpu(argv: Sequence[str]) -> bool:
    """Whether a training with these arguments uses a GPU if there is one. Not if it is about to report an error."""
    if _PRINTING & set(argv):
        return False
    try:
        read_launch()
        return parse_config(argv).train.device != "cpu"
    except (InputError, OSError):
        return False


def create_context(driver: Any, ordinal: int) -> None:
    """Creates the primary context of a device.

    Args:
        driver: the CUDA driver library, whose functions return 0 for success.
        ordinal: of the device among those in CUDA_VISIBLE_DEVICES, as for torch.
    """
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), ordinal) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
