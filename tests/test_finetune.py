"""Fine-tuning: layer-wise learning-rate decay and a frozen backbone."""

import pytest
import torch
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from processes import TINY, run, trainer
from run_directory import outcome
from thoroughness import examples

from benchmarks.trainer import build_trainer
from data.sources.torchvision_datasets import torchvision
from regnet.checkpoint.file import load
from regnet.checkpoint.load_model import untrained_model
from regnet.checkpoint.manager import CheckpointManager
from regnet.config.parser import parse_config
from regnet.config.schema import DistributedConfig, OptimConfig
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import join_world
from regnet.doctor.requirements import step_bytes
from regnet.errors import UsageError
from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model, count_parameters
from regnet.optim.optimizers import build_optimizer, set_learning_rate

FROZEN = ("--train.freeze_backbone", "true", "--optim.ema_decay", "0.5", "--optim.weight_decay", "0.1")
ONE_EPOCH = ("--train.epochs", "1", "--schedule.name", "baseline")


@examples(20)
@given(depth=st.integers(1, 6), decay=st.floats(0.01, 1), name=st.sampled_from(["adamw", "sgd", "muon"]))
def test_layer_decay_multiplies_the_learning_rate_from_block_to_block(depth, decay, name):
    with torch.device("meta"):
        model = Model(generate_design(Variant.paper, depth, 8, 8, 2, 1, 8, 8, 0.25), classes=3)
    config = OptimConfig(name=name, lr=0.5, muon_lr=0.1, layer_decay=decay)
    optimizer = build_optimizer(model, config, torch.float32)
    set_learning_rate(optimizer, 0.25)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    blocks = [block for layer in model.body for block in layer.layers]
    for distance, part in enumerate([model.head, *reversed(blocks), model.stem]):
        for parameter in part.parameters():
            by_muon = name == "muon" and parameter.ndim == 4 and part is not model.stem
            assert rates.pop(parameter) == pytest.approx((0.05 if by_muon else 0.25) * decay**distance)
    assert not rates


def checkpoint(folder):
    return load(CheckpointManager(folder / "tiny" / "checkpoints", 1).paths()[-1])


@pytest.mark.parametrize("processes", [0, 2])
def test_a_frozen_backbone_is_bit_identical_after_training_and_the_head_is_not(shards, tmp_path, processes):
    flags = (*FROZEN, *ONE_EPOCH, "--train.sync_batchnorm", "true")
    done = run(trainer(tmp_path, shards, *flags, processes=processes))
    assert done.returncode == 0, done.stderr
    initial = untrained_model(["--config", str(TINY)], 100).model
    head = count_parameters(initial.head)
    assert f"tiny: {count_parameters(initial):,} parameters ({head:,} trained), " in done.stdout
    saved = checkpoint(tmp_path)
    for name, value in initial.state_dict().items():
        for trained in (saved["model"][name], saved["ema"][f"module.{name}"]):
            assert torch.equal(trained, value) is not name.startswith("head."), name
    assert sum(len(group["params"]) for group in saved["optimizer"]["param_groups"]) == 2


def test_a_run_with_a_frozen_backbone_resumes_bit_exactly(shards, uninterrupted, tmp_path):
    flags = (*FROZEN, "--schedule.name", "baseline", "--checkpoint.every_steps", "4")
    assert run(trainer(tmp_path, shards, *flags, "--train.epochs", "1")).returncode == 0
    newest = CheckpointManager(tmp_path / "tiny" / "checkpoints", 1).paths()[-1]
    newest.unlink()
    (tmp_path / "tiny" / "checkpoints" / "best.pt").unlink()
    done = run(trainer(tmp_path, shards, *flags))
    assert "Resuming from" in done.stdout, done.stderr
    assert outcome(tmp_path / "tiny") == uninterrupted(*flags)


def test_a_frozen_backbone_computes_the_same_in_training_and_in_evaluation(shards, tmp_path):
    options = ["--config", str(TINY), "--runs_dir", str(tmp_path), "--data.shards", str(shards), *FROZEN]
    config = parse_config([*options, "--train.max_steps_per_epoch", "1"])
    with (
        join_world("cpu", DistributedConfig(), PreemptionNotice()) as world,
        build_trainer(config, world) as (trainer, _),
    ):
        images = torch.randn(4, 3, 32, 32)
        outputs = []
        for network in (trainer.train_step.network.compute.network, trainer.state.model):
            network.body.register_forward_hook(lambda _, inputs, output: outputs.append(output))
        trainer.run.resume_or_start(trainer.state)
        assert trainer.train_epoch(0.0)
        outputs.clear()
        trainer.train_step.network(images)
        trainer.state.model.eval()(images)
        training, evaluation = outputs
        assert torch.equal(training, evaluation)
        assert not training.requires_grad, "no activations are saved for a backward pass"


def test_a_frozen_backbone_needs_less_memory():
    config, frozen = (
        parse_config(["--config", str(TINY), *flags]) for flags in ((), ("--train.freeze_backbone=true",))
    )
    assert step_bytes(frozen, 100, 1) < step_bytes(config, 100, 1) / 2


def test_stochastic_depth_cannot_be_combined_with_a_frozen_backbone():
    with pytest.raises(UsageError, match=r"train\.drop_path .* train\.freeze_backbone"):
        parse_config(["--train.freeze_backbone=true", "--train.drop_path=0.1"])


@pytest.mark.thorough
def test_finetune_yaml_trains_from_weights_of_torchvision(shards, tmp_path):
    torch.manual_seed(0)
    path, original = tmp_path / "regnet_x_400mf.pth", torchvision.models.regnet_x_400mf()
    torch.save(original.state_dict(), path)
    flags = ["--runs_dir", tmp_path, "--data.shards", shards, "--model.weights", path, "--data.resolution", 32]
    flags += ["--schedule.name", "baseline", "--schedule.warmup_epochs", 0, "--train.epochs", 1]
    flags += [
        "--train.max_steps_per_epoch",
        1,
        "--train.batch_size",
        16,
        "--train.precision",
        "fp32",
        "--train.device",
        "cpu",
    ]
    flags += ["--tracking.wandb", "disabled", "--tracking.report", "false"]
    done = run(ForkedCommand(["train_ddp.py", "--config", "configs/finetune.yaml", *map(str, flags)]))
    assert done.returncode == 0, done.stderr
    assert f"Starting from {path}: " in done.stdout
    assert "of torchvision; the head is newly initialised" in done.stdout
    weights = load(CheckpointManager(tmp_path / "finetune" / "checkpoints", 1).paths()[-1])["model"]
    change = weights["stem.conv_3x3.weight"] - original.state_dict()["stem.0.weight"]
    assert 0 < change.abs().max() < 2e-4, "the learning rate of the stem is small"
