"""The device of a process, and collectives."""

import json
import socket

import pytest
import torch
from fork_server import ForkedCommand
from processes import run

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
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UsageError) as raised:
        choose_device("cuda", local_rank=2)
    assert str(raised.value) == message.format(host=socket.gethostname())


@pytest.mark.parametrize(
    ("visible", "gpus", "message"),
    [
        ("7", 0, "no GPU found on {host} with CUDA_VISIBLE_DEVICES=7 (local rank 2): correct or unset"),
        ("GPU-5", 0, "no GPU found on {host} with CUDA_VISIBLE_DEVICES=GPU-5"),
        ("0,1", 2, "{host} has 2 GPUs with CUDA_VISIBLE_DEVICES=0,1, but local rank 2 needs one"),
    ],
)
def test_gpus_that_the_user_has_chosen_are_used_or_missed(monkeypatch, visible, gpus, message):
    """Also by train.device auto: a run on the CPU is not what the user asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UsageError) as raised:
        choose_device("auto", local_rank=2)
    assert str(raised.value).startswith(message.format(host=socket.gethostname()))
    assert choose_device("cpu", local_rank=2) == torch.device("cpu")


def test_values_that_select_no_gpu_allow_the_cpu_and_unknown_ones_are_refused(monkeypatch):
    """CUDA ignores words that it does not know, and finds no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for none in ("", "-1", "-1,0", "NoDevFiles", "none", "void"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert choose_device("auto", local_rank=2) == torch.device("cpu")
    for unknown in ("all", "cuda:0", "MIG-5", "0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", unknown)
        with pytest.raises(UsageError, match=f"CUDA_VISIBLE_DEVICES={unknown} .*, or use --device cpu"):
            choose_device("auto", local_rank=0, option="--device")


def test_auto_uses_a_gpu_only_if_there_is_one(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", local_rank=0) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", local_rank=1) == torch.device("cuda", 1)
    assert choose_device("cpu", local_rank=1) == torch.device("cpu")


@pytest.mark.parametrize("ranks", [2, 3])
def test_tensors_are_broadcast_together_once_per_dtype(ranks):
    done = run(ForkedCommand(["tests/helpers/broadcast_ranks.py"], ranks))
    assert done.returncode == 0, done.stderr
    results, broadcasts = json.loads(done.stdout)
    assert results == [[0, [[0, 1, 2], [3, 4, 5]], [[0.5] * 4] * 3, [], [7, 8]]] * ranks
    assert broadcasts == ["torch.int64", "torch.float32", "torch.float64"]
