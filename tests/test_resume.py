"""A killed run resumes bit-exactly, also in other shards and on other numbers of ranks."""

import random

import pytest
from images import convert_synthetic
from processes import faulty_trainer, kill_group, run, start, trainer, wait_until
from run_directory import outcome, rows, state
from thoroughness import either, parametrize_some

from regnet.checkpoint.file import load
from regnet.checkpoint.manager import CheckpointManager

# What a checkpoint must contain: gradient accumulation, EMA weights, momentum, the state of torch's generators, steps
# within an epoch. Augmentations need no state, since they depend only on sample and epoch.
FLAGS = (
    "--checkpoint.every_steps",
    "3",
    "--optim.ema_decay",
    "0.9",
    "--train.grad_accum_steps",
    "2",
    "--train.epochs",
    "5",
)
FLAGS += ("--train.drop_path", "0.3", "--augment.mixup_prob", "0.3", "--augment.cutmix_prob", "0.3")
CROP = ("--augment.rrc_min_scale", "0.3", "--augment.crop_padding", "0", "--data.shuffle_window", "200")
PRECISIONS = {
    "fp32": (),
    "bf16": ("--train.precision", "bf16", "--optim.name", "muon", "--optim.layer_decay", "0.8", *CROP),
    "fp16": ("--train.precision", "fp16"),
}


def kill_at(step, folder, shards, *flags, attempt=1, **options):
    """Kills this attempt of the run once metrics.jsonl has this many steps."""
    process = start(faulty_trainer(folder.parent, shards, "never_finishes", *flags, **options))
    wait_until(lambda: (folder / "state.json").exists() and state(folder)["attempt"] == attempt)
    wait_until(lambda: len(rows(folder, "step")) >= step)
    assert process.poll() is None, "it ended before it was killed"
    kill_group(process)


@parametrize_some("precision", PRECISIONS)
def test_a_killed_and_resumed_run_is_bit_identical_to_an_uninterrupted_one(shards, uninterrupted, tmp_path, precision):
    flags = FLAGS + PRECISIONS[precision]
    killed = tmp_path / "killed" / "tiny"
    kills = sorted(random.Random(precision).sample(range(4, 38), either(quick=2, thorough=10)))
    for attempt, step in enumerate(kills, start=1):
        kill_at(step, killed, shards, *flags, "--tracking.log_every", "1", attempt=attempt)
    resumed = run(trainer(tmp_path / "killed", shards, *flags))
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from" in resumed.stdout
    assert outcome(killed) == uninterrupted(*flags)
    assert state(killed)["attempt"] == 1 + len(kills)


def test_killed_ranks_resume_bit_exactly(shards, uninterrupted, tmp_path):
    flags = (*FLAGS, "--tracking.log_every", "1")
    killed = tmp_path / "killed" / "tiny"
    kill_at(16, killed, shards, *flags, processes=2)
    assert run(trainer(tmp_path / "killed", shards, *flags, processes=2)).returncode == 0
    assert outcome(killed) == uninterrupted(*FLAGS, processes=2)


def test_a_run_resumes_on_the_same_images_in_different_shards(shards, tmp_path):
    other = convert_synthetic(tmp_path / "other", 10, 1)
    flags = ("--schedule.name", "baseline", "--train.epochs")
    assert run(trainer(tmp_path, shards, *flags, "1")).returncode == 0
    assert run(trainer(tmp_path, other, *flags, "2")).returncode == 0
    assert run(trainer(tmp_path / "uninterrupted", shards, *flags, "2")).returncode == 0
    assert rows(tmp_path / "tiny", "step") == rows(tmp_path / "uninterrupted" / "tiny", "step")


def test_a_killed_evaluation_does_not_lose_the_epoch(shards, tmp_path):
    """The last step of an epoch is saved before its evaluation, which does not end here."""
    folder = tmp_path / "tiny"
    process = start(faulty_trainer(tmp_path, shards, "evaluation_until_signal"))
    first = folder / "checkpoints" / "step-000000011.pt"
    wait_until(first.exists)
    kill_group(process)
    assert rows(folder, "epoch") == []
    saved = load(first)["progress"]
    assert (saved["global_step"], saved["step"], saved["epoch"]) == (11, 11, 0)


@pytest.mark.thorough
def test_a_run_that_is_killed_between_an_epochs_report_and_its_checkpoint_reports_it_once(
    shards, uninterrupted, tmp_path
):
    """The newest checkpoint is then the one before the evaluation, of the same step."""
    folder = tmp_path / "tiny"
    process = start(faulty_trainer(tmp_path, shards, "saves_no_evaluated_epoch"))
    wait_until(lambda: rows(folder, "epoch") and (folder / "checkpoints" / "step-000000011.pt").exists())
    kill_group(process)
    assert load(folder / "checkpoints" / "step-000000011.pt")["progress"]["epoch"] == 0
    assert run(trainer(tmp_path, shards)).returncode == 0
    assert outcome(folder) == uninterrupted()


PLAIN_SGD = ("--optim.name", "sgd", "--optim.momentum", "0", "--optim.lr", "0.02", "--schedule.start_lr", "0.02")


@pytest.mark.thorough
def test_a_run_of_four_ranks_resumes_on_two_and_on_one_with_the_same_batches(shards, tmp_path):
    """Losses agree to one part in a thousand, since only the order of sums differs.

    Plain SGD, which does not amplify rounding errors as Adam does.
    """
    flags = (*PLAIN_SGD, "--train.sync_batchnorm", "true", "--schedule.warmup_epochs", "0", "--train.epochs", "1")
    expected = run(trainer(tmp_path / "uninterrupted", shards, *flags, processes=4))
    assert expected.returncode == 0, expected.stderr
    for processes in (4, 2):
        done = run(trainer(tmp_path, shards, *flags, "--train.max_minutes", "1e-9", processes=processes))
        assert done.returncode == 75, done.stderr
        assert state(tmp_path / "tiny")["state"] == "preempted"
    assert state(tmp_path / "tiny")["step"] == 4, "two steps on four ranks, two on two"
    metrics = load(CheckpointManager(tmp_path / "tiny" / "checkpoints", 1).path(4))["metrics"]
    assert sum(int(rank["class_samples"].sum()) for rank in metrics) == 4 * 96, "the samples of all four ranks"
    done = run(trainer(tmp_path, shards, *flags))
    assert "(epoch 0, step 4)" in done.stdout, done.stderr
    moved, unmoved = (rows(folder / "tiny", "step") for folder in (tmp_path, tmp_path / "uninterrupted"))
    assert [row["step"] for row in moved] == list(range(1, 12))
    assert [row["loss"] for row in moved] == pytest.approx([row["loss"] for row in unmoved], rel=1e-3)
    (epoch,), (other,) = (rows(folder / "tiny", "epoch") for folder in (tmp_path, tmp_path / "uninterrupted"))
    assert epoch["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3), "the epoch's sums are restored too"
