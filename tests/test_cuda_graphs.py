"""Captured CUDA graphs compute what uncaptured kernels do."""

import pytest
import torch
from programs import result, rows, run, trainer
from torch.nn import functional as F

from regnet.config.schema import TrainConfig
from regnet.distributed.world import World
from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model
from regnet.training.amp import Precision
from regnet.training.cuda_graphs import CapturedFunction, CapturedNetwork, should_capture_step


@pytest.mark.parametrize(
    ("options", "size", "device", "captured"),
    [
        ({"cuda_graphs": True}, 1, "cuda", True),
        ({}, 1, "cuda", False),
        ({"cuda_graphs": True}, 1, "cpu", False),
        ({"cuda_graphs": True}, 2, "cuda", False),
        ({"cuda_graphs": True, "grad_accum_steps": 2}, 1, "cuda", False),
        ({"cuda_graphs": True, "detect_anomaly": True}, 1, "cuda", False),
    ],
)
def test_only_a_single_process_on_a_gpu_captures_its_steps(options, size, device, captured):
    world = World(0, size, 0, torch.device(device), None, None)
    assert should_capture_step(TrainConfig(**options), world) == captured


@pytest.mark.gpu
def test_a_captured_function_takes_new_inputs_of_any_shape_in_each_call():
    captured = CapturedFunction(lambda x, y, n: (x * n + y, y - 1))
    for call, shape in enumerate([(3,), (2, 5), (3,), (3,)]):
        x, y = torch.randn(2, *shape, device="cuda")
        before = y.clone()
        total, less = captured(x, y, call)
        torch.testing.assert_close(total, x * call + before)
        torch.testing.assert_close(less, before - 1)
        assert torch.equal(y, before)


def gradients(network, model, images):
    model.zero_grad()
    F.cross_entropy(network(images), torch.arange(len(images), device="cuda") % 3).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.gpu
def test_a_captured_network_has_the_same_gradients_and_statistics_for_batches_of_any_size():
    torch.manual_seed(0)
    uncaptured, model = (
        Model(generate_design(Variant.baseline, 2, 8, 8, 2, 1, 8, 8), classes=3).cuda() for _ in range(2)
    )
    model.load_state_dict(uncaptured.state_dict())
    precision = Precision("fp32", torch.device("cuda"))
    network = CapturedNetwork(model.train(), torch.zeros(6, 3, 32, 32, device="cuda"), precision)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.buffers(), uncaptured.buffers(), strict=True))
    for count in (6, 6, 4, 6):
        images = torch.randn(count, 3, 32, 32, device="cuda")
        expected = gradients(uncaptured, uncaptured, images)
        torch.testing.assert_close(gradients(network, model, images), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dict(model.named_buffers()), dict(uncaptured.named_buffers()), rtol=1e-4, atol=1e-5)
    network.eval()
    uncaptured.eval()
    torch.testing.assert_close(network(images), uncaptured(images), rtol=1e-3, atol=1e-4)


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
