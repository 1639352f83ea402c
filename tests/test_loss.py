"""The training loss, and the accuracy that is counted with it."""

import pytest
import torch

from benchmarks.trainer import build_trainer
from data.loader import Batch
from regnet.checkpoint.load_model import untrained_model
from regnet.config.parser import parse_config
from regnet.config.schema import DistributedConfig
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import join_world
from regnet.models.regnet import XBlock, fingerprint


@pytest.fixture
def trainer_of(shards, tmp_path):
    def trainer_of(*flags):
        config = parse_config(
            ["--config", "tests/tiny.yaml", "--runs_dir", str(tmp_path), "--data.shards", str(shards), *flags]
        )
        with (
            join_world("cpu", DistributedConfig(), PreemptionNotice()) as world,
            build_trainer(config, world) as (trainer, _),
        ):
            return trainer

    return trainer_of


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("mixed", [False, True])
def test_label_smoothing_applies_to_hard_and_mixed_targets(trainer_of, smoothing, mixed):
    trainer = trainer_of("--train.label_smoothing", str(smoothing))
    labels, others = torch.arange(20), torch.arange(50, 70)
    lam = torch.linspace(0, 1, 20).unsqueeze(1) if mixed else torch.ones(20, 1)
    one_hot = torch.nn.functional.one_hot
    targets = lam * one_hot(labels, 100) + (1 - lam) * one_hot(others, 100)
    logits, loss = trainer.train_step.forward_pass(torch.randn(20, 3, 32, 32), targets if mixed else labels)
    smoothed = (1 - smoothing) * targets + smoothing / 100
    torch.testing.assert_close(loss, -(smoothed * logits.log_softmax(1)).sum())


def test_a_step_computes_the_loss_from_targets_and_the_accuracy_from_labels(trainer_of):
    trainer = trainer_of("--train.grad_accum_steps", "2")
    images, targets = torch.randn(30, 3, 32, 32), torch.zeros(30, 100)
    targets[:, 99] = 1
    with torch.no_grad():
        logits = torch.cat([trainer.train_step.network(part) for part in images.tensor_split(2)])
    labels = logits.argmax(1)
    loss = trainer.train_step.run(Batch(images, labels, targets, 30), 0.0)
    torch.testing.assert_close(loss, -logits.log_softmax(1)[:, 99].mean())
    metrics = trainer.state.metrics.state_dict()
    assert torch.equal(metrics["class_samples"], labels.bincount(minlength=100))
    assert torch.equal(metrics["class_correct"], metrics["class_samples"])


@pytest.mark.parametrize("flags", [(), ("--train.init_std", "0.01", "--train.zero_init_residual", "true")])
def test_the_untrained_model_has_the_initial_weights_of_a_run(trainer_of, flags):
    untrained = untrained_model(["--config", "tests/tiny.yaml", *flags], 100).model
    assert fingerprint(trainer_of(*flags).state.model) == fingerprint(untrained)


@pytest.mark.parametrize("enabled", [False, True])
def test_zero_init_residual_and_drop_path_are_off_by_default(trainer_of, enabled):
    flags = ("--train.zero_init_residual", "true", "--train.drop_path", "0.3") if enabled else ()
    blocks = [module for module in trainer_of(*flags).state.model.modules() if isinstance(module, XBlock)]
    assert all(bool(block.bn3.weight.any()) != enabled for block in blocks)
    assert [block.drop_path_rate for block in blocks] == pytest.approx([0.1, 0.2, 0.3] if enabled else [0, 0, 0])
