"""The loss that is minimised, and the accuracy beside it."""

import pytest
import torch

from benchmarks.trainer import built
from data.loader import Batch
from regnet.config import DistributedConfig
from regnet.distributed import join
from regnet.options import parse_config
from regnet.preemption import Notice


@pytest.fixture
def trainer_of(shards, tmp_path):
    def trainer_of(*flags):
        config = parse_config(
            ["--config", "tests/tiny.yaml", "--runs_dir", str(tmp_path), "--data.shards", str(shards), *flags]
        )
        with join("cpu", DistributedConfig(), Notice()) as world, built(config, world) as (trainer, _):
            return trainer

    return trainer_of


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("mixed", [False, True])
def test_targets_are_smoothed_and_may_be_of_several_classes(trainer_of, smoothing, mixed):
    trainer = trainer_of("--train.label_smoothing", str(smoothing))
    labels, others = torch.arange(20), torch.arange(50, 70)
    shares = torch.linspace(0, 1, 20).unsqueeze(1) if mixed else torch.ones(20, 1)
    one_hot = torch.nn.functional.one_hot
    targets = shares * one_hot(labels, 100) + (1 - shares) * one_hot(others, 100)
    logits, loss = trainer.forward_pass(torch.randn(20, 3, 32, 32), targets if mixed else labels)
    smooth = (1 - smoothing) * targets + smoothing / 100
    torch.testing.assert_close(loss, -(smooth * logits.log_softmax(1)).sum())


def test_accuracy_is_that_of_the_samples_own_labels(trainer_of):
    trainer = trainer_of("--train.accumulate", "2")
    images, targets = torch.randn(30, 3, 32, 32), torch.zeros(30, 100)
    targets[:, 99] = 1
    labels = trainer.forward(images).argmax(1)
    trainer.step(Batch(images, labels, targets, 30), 0.0)
    counted = trainer.state.counters
    assert counted.class_samples.sum() == 30
    assert torch.equal(counted.class_samples, labels.bincount(minlength=100))
    assert counted.class_samples[99] < 30
