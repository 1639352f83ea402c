"""CUDA graphs compute what separately launched kernels do, in one process and in several.

tests/test_captured_steps.py tests everything but CUDA's own capture without a GPU.
"""

import os
import signal

import pytest
import torch
import torch.distributed as dist
from limits import LIMIT
from processes import faulty_trainer, has_exited, kill_group, ranks_of, run, start, trainer, wait_until
from run_directory import outcome, result, rows
from torch.nn import functional as F

from regnet.config.schema import TrainConfig
from regnet.distributed.world import World
from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model
from regnet.training.builder import build_network
from regnet.training.cuda_graphs import CapturedFunction, GraphCapture
from regnet.training.step_capture import why_not_captured

# Kernels without atomics, chosen without timing them: both sides then compute the same bits.
DETERMINISTIC = ("--train.deterministic", "true", "--train.cudnn_benchmark", "false")


def required_capture(what):
    return GraphCapture(what, required=True, report=print)


@pytest.mark.parametrize(
    ("options", "size", "device", "flat", "reason"),
    [
        ({}, 1, "cuda", True, ""),
        ({}, 8, "cuda", True, ""),
        ({"grad_accum_steps": 2}, 2, "cuda", True, ""),
        ({"sync_batchnorm": True}, 1, "cuda", True, ""),
        ({"sync_batchnorm": True}, 2, "cuda", True, "train.sync_batchnorm"),
        ({"detect_anomaly": True}, 1, "cuda", True, "train.detect_anomaly"),
        ({}, 2, "cuda", False, "the network is so large"),
        ({}, 1, "cpu", True, "the run uses no GPU"),
    ],
)
def test_passes_are_captured_in_any_number_of_processes_unless_they_wait_or_communicate(
    options, size, device, flat, reason
):
    world = World(0, size, 0, torch.device(device), None, None)
    problem = why_not_captured(TrainConfig(**options), world, flat)
    assert problem.startswith(reason)
    assert bool(problem) == bool(reason)


@pytest.mark.gpu
def test_a_captured_function_takes_new_inputs_of_any_shape_in_each_call():
    with torch.cuda.stream(torch.cuda.Stream()):
        captured = CapturedFunction(required_capture("a function"), lambda x, y, n: (x * n + y, y - 1))
        for call, shape in enumerate([(3,), (2, 5), (3,), (3,)]):
            x, y = torch.randn(2, *shape, device="cuda")
            before = y.clone()
            total, less = captured(x, y, call)
            torch.testing.assert_close(total, x * call + before)
            torch.testing.assert_close(less, before - 1)
            assert torch.equal(y, before)


@pytest.fixture
def one_rank(tmp_path):
    """A process group of one rank, in a World that wraps networks in DistributedDataParallel as one of two does."""
    device = torch.device("cuda", 0)
    dist.init_process_group("nccl", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    stream = torch.cuda.current_stream()
    torch.cuda.set_stream(torch.cuda.Stream())
    torch.use_deterministic_algorithms(True)
    yield World(0, 2, 0, device, None, None)
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_stream(stream)
    dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [1, 2])
def test_fifty_captured_steps_under_ddp_are_bit_identical_to_uncaptured_ones(parts, dtype, one_rank, monkeypatch):
    """Every fifth batch is smaller; with two parts, gradients are accumulated."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    trained = []
    for captured in (False, True):
        torch.manual_seed(0)
        model = Model(generate_design(Variant.baseline, 2, 8, 8, 2, 1, 8, 8), classes=3)
        model.to(one_rank.device, memory_format=torch.channels_last)
        network = build_network(model, one_rank, dtype)
        network.module.capture = required_capture("the passes") if captured else None
        network.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, fused=True)
        addresses = [parameter.grad.data_ptr() for parameter in model.parameters()]
        for step in range(50):
            count = 4 if step % 5 == 4 else 6
            images = torch.randn(count, 3, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
            for part in images.tensor_split(parts):
                with torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False):
                    logits = network(part)
                F.cross_entropy(logits.float(), torch.arange(len(part), device="cuda") % 3).backward()
            optimizer.step()
            network.zero_grad()
        assert [parameter.grad.data_ptr() for parameter in model.parameters()] == addresses
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [(), ("--train.grad_accum_steps", "3", "--train.precision", "bf16")], ids=" ".join)
def test_two_captured_ranks_on_one_gpu_are_bit_identical_to_uncaptured_ones(flags, shards, tmp_path):
    runs = []
    for graphs in ("false", "true"):
        options = ("--train.device", "cuda", "--train.cuda_graphs", graphs, *DETERMINISTIC, *flags)
        done = run(faulty_trainer(tmp_path / graphs, shards, "shared_gpu", *options, processes=2))
        assert done.returncode == 0, done.stderr
        runs.append(outcome(tmp_path / graphs / "tiny"))
    assert runs[0] == runs[1]


@pytest.mark.gpu
def test_a_run_killed_while_graphs_are_replayed_resumes_bit_exactly(shards, tmp_path):
    flags = ("--train.device", "cuda", *DETERMINISTIC, "--checkpoint.every_steps", "3", "--tracking.log_every", "1")
    assert run(trainer(tmp_path / "uninterrupted", shards, *flags)).returncode == 0
    killed = start(faulty_trainer(tmp_path / "killed", shards, "never_finishes", *flags))
    wait_until(lambda: len(rows(tmp_path / "killed" / "tiny", "step")) > 7)
    kill_group(killed)
    done = run(trainer(tmp_path / "killed", shards, *flags))
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "killed" / "tiny") == outcome(tmp_path / "uninterrupted" / "tiny")


@pytest.mark.gpu
def test_when_a_rank_is_killed_while_graphs_are_replayed_the_other_exits(shards, tmp_path):
    flags = ("--train.device", "cuda", "--train.epochs", "4000", "--distributed.heartbeat_timeout", "5")
    process = start(faulty_trainer(tmp_path, shards, "shared_gpu", *flags, processes=2))
    try:
        wait_until(lambda: len(rows(tmp_path / "tiny", "step")) > 30)
        pids = ranks_of(process)
        os.kill(pids[1], signal.SIGKILL)
        wait_until(lambda: has_exited(pids[0]))
    finally:
        kill_group(process)
    assert "rank 1 stopped responding" in process.communicate(timeout=LIMIT)[1]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--train.precision", "bf16", "--optim.name", "muon", "--optim.lr", "0.1", "--optim.ema_decay", "0.9"),
        (
            "--augment.randaugment_num_ops",
            "2",
            "--augment.cutout_size",
            "8",
            "--augment.mixup_prob",
            "0.3",
            "--augment.cutmix_prob",
            "0.3",
        ),
        ("--data.progressive_resizing_epochs", "1", "--data.initial_resolution", "16", "--data.cache", "device"),
        ("--train.freeze_backbone", "true"),
        ("--train.grad_accum_steps", "2"),
    ],
    ids=" ".join,
)
def test_a_captured_run_trains_like_an_uncaptured_one(flags, shards, tmp_path):
    """Compares the loss of every step, and the accuracy after two epochs; the last batch is smaller (40 of 96)."""
    found = []
    for graphs in ("false", "true"):
        folder = tmp_path / graphs
        steady = (
            "--train.device",
            "cuda",
            "--train.cudnn_benchmark",
            "false",
            "--optim.name",
            "sgd",
            "--optim.lr",
            "0.05",
        )
        done = run(trainer(folder, shards, *steady, *flags, "--train.cuda_graphs", graphs))
        assert done.returncode == 0, done.stderr
        losses = [row["loss"] for row in rows(folder / "tiny", "step")]
        found.append((losses, result(folder / "tiny")["top1"]))
    (uncaptured, accuracy), (captured, captured_accuracy) = found
    assert captured == pytest.approx(uncaptured, rel=0.03)
    assert captured_accuracy == pytest.approx(accuracy, abs=0.05)
