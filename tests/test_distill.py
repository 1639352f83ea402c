"""Knowledge distillation: training on labels and on the predictions of a teacher."""

import pytest
import torch
from fork_server import ForkedCommand
from images import class_folders
from processes import faulty_trainer, run, trainer
from run_directory import outcome, rows
from torch.nn import functional as F

from benchmarks.trainer import build_trainer
from regnet.checkpoint.load_model import load_trained_model
from regnet.config.parser import parse_config
from regnet.config.schema import DistillConfig, DistributedConfig
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import join_world
from regnet.training.loss import Loss


@pytest.fixture(scope="module")
def teacher(shards, tmp_path_factory):
    """The checkpoint of a deeper network than the students."""
    folder = tmp_path_factory.mktemp("teacher")
    done = run(trainer(folder, shards, "--model.depth", "4", "--train.epochs", "3"))
    assert done.returncode == 0, done.stderr
    return folder / "tiny" / "checkpoints" / "best.pt"


def kl_divergence(logits, teacher_logits, temperature):
    """From its definition, summed over samples."""
    target, predicted = (teacher_logits / temperature).softmax(1), (logits / temperature).softmax(1)
    return temperature**2 * (target * (target / predicted).log()).sum()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_a_weighted_mean_of_cross_entropy_and_kl_divergence(alpha, temperature):
    torch.manual_seed(0)
    logits, teacher_logits, labels = 3 * torch.randn(20, 7), 3 * torch.randn(20, 7), torch.arange(20) % 7
    loss = Loss(0.1, None, DistillConfig("", alpha, temperature))
    cross_entropy = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)
    assert loss(logits, labels, None) == cross_entropy
    expected = (1 - alpha) * cross_entropy + alpha * kl_divergence(logits, teacher_logits, temperature)
    torch.testing.assert_close(loss(logits, labels, teacher_logits), expected)


def test_the_trainer_uses_the_teacher_in_evaluation_mode_and_does_not_change_it(shards, teacher, tmp_path):
    flags = ("--distill.teacher", str(teacher), "--distill.alpha", "1", "--distill.temperature", "3")
    config = parse_config(
        ["--config", "tests/tiny.yaml", "--runs_dir", str(tmp_path), "--data.shards", str(shards), *flags]
    )
    original = load_trained_model(teacher).model
    images, labels = torch.randn(20, 3, 32, 32), torch.arange(20)
    with (
        join_world("cpu", DistributedConfig(), PreemptionNotice()) as world,
        build_trainer(config, world) as (student_trainer, _),
    ):
        train_step = student_trainer.train_step
        train_step.network.train()
        logits, loss = train_step.forward_pass(images, labels)
        with torch.no_grad():
            torch.testing.assert_close(loss, kl_divergence(logits, original(images), 3.0), rtol=1e-4, atol=1e-6)
        loss.backward()
        used = train_step.loss.teacher
        assert not used.training
        for one, other in zip(used.state_dict().values(), original.state_dict().values(), strict=True):
            assert torch.equal(one, other)
        assert all(parameter.grad is None for parameter in used.parameters())
        assert all(parameter.grad is not None for parameter in train_step.state.model.parameters())


def test_distillation_lowers_the_loss_on_two_processes(shards, teacher, tmp_path):
    done = run(trainer(tmp_path, shards, "--distill.teacher", str(teacher), "--train.epochs", "3", processes=2))
    assert done.returncode == 0, done.stderr
    losses = [row["train_loss"] for row in rows(tmp_path / "tiny", "epoch")]
    assert losses[-1] < losses[0] - 0.02


def test_a_captured_teacher_changes_nothing(shards, teacher, tmp_path):
    """On a CPU a graph is replayed by running its function again, as in tests/test_captured_steps.py."""
    flags = ("--distill.teacher", str(teacher))
    assert run(trainer(tmp_path / "uncaptured", shards, *flags)).returncode == 0
    done = run(faulty_trainer(tmp_path / "captured", shards, "rerun_graphs", *flags))
    assert done.stdout.count("captured the teacher's passes\n") == 2, "for full batches and for the smaller last one"
    assert outcome(tmp_path / "captured" / "tiny") == outcome(tmp_path / "uncaptured" / "tiny")


@pytest.mark.parametrize("problem", ["absent", "other classes", "too small images"])
def test_an_unusable_teacher_is_a_one_line_error(shards, teacher, tmp_path, problem):
    flags = ["--distill.teacher", str(teacher)]
    if problem == "absent":
        flags = ["--distill.teacher", str(tmp_path / "none.pt")]
    elif problem == "other classes":
        command = [
            "-m",
            "data.convert",
            "--source",
            "folder",
            "--root",
            str(class_folders(tmp_path / "tree")),
            "--shards",
            "1",
        ]
        done = run(ForkedCommand([*command, "--out", str(tmp_path / "few")]))
        assert done.returncode == 0, done.stderr
        shards, flags = tmp_path / "few", [*flags, "--train.batch_size", "4"]
    else:  # for the teacher with its four stages, not for a student of one stage
        flags += ["--model.depth", "1", "--data.resolution", "4"]
    done = run(trainer(tmp_path, shards, *flags, processes=2))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
