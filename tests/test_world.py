"""The device of a process."""

import socket

import pytest
import torch

from regnet.distributed.world import choose_device
from regnet.errors import UsageError


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        (0, "no GPU found on {host} (local rank 2): use --train.device cpu"),
        (
            1,
            "{host} has 1 GPU, but local rank 2 needs one: start at most 1 process per node (--nproc_per_node) "
            "or use --train.device cpu",
        ),
        (
            2,
            "{host} has 2 GPUs, but local rank 2 needs one: start at most 2 processes per node (--nproc_per_node) "
            "or use --train.device cpu",
        ),
    ],
)
def test_a_process_without_a_gpu_is_rejected_with_the_remedy(monkeypatch, gpus, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UsageError) as raised:
        choose_device("cuda", local_rank=2)
    assert str(raised.value) == message.format(host=socket.gethostname())


def test_auto_uses_a_gpu_only_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", local_rank=0) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", local_rank=1) == torch.device("cuda", 1)
    assert choose_device("cpu", local_rank=1) == torch.device("cpu")
