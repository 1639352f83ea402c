"""The trainer as users start it: a single process, torchrun, invalid input."""

import json
import os
import re
import shutil

import pytest
import yaml
from processes import PYTHON, TINY, TORCHRUN, run, trainer
from run_directory import outcome, result, rows, state
from thoroughness import parametrize_some

LINE = re.compile(
    r"^epoch (\d+)/2  loss \d\.\d{4}  val_loss \d\.\d{4}  top1 [ \d]\d\.\d\d%  top5 [ \d]\d\.\d\d%  lr \d\.\d{6}  "
    r"[\d,]+ img/s  \d+\.\d s$",
    re.MULTILINE,
)


def train(folder, shards, *flags, processes=0, launcher=(), **env):
    done = run(trainer(folder, shards, *flags, processes=processes, launcher=launcher), **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def single(tmp_path_factory, shards):
    """A run of a single process, and its directory."""
    folder = tmp_path_factory.mktemp("single")
    return train(folder, shards, launcher=PYTHON), folder / "tiny"


def test_a_single_process_trains_and_writes_its_results(single):
    done, folder = single
    assert [match[1] for match in LINE.finditer(done.stdout)] == ["1", "2"]
    assert "progress" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert state(folder)["state"] == "finished"
    assert (state(folder)["epoch"], state(folder)["step"], state(folder)["attempt"]) == (2, 22, 1)
    saved = {path.name for path in (folder / "checkpoints").iterdir()}
    assert saved == {"step-000000011.pt", "step-000000022.pt", "best.pt"}


def test_console_lines_fit_the_width_of_a_log(single, shards, tmp_path):
    done, folder = single
    slow = train(tmp_path, shards, "--tracking.progress_every", "0.000001", "--tracking.log_every", "2")
    for line in (done.stdout + slow.stdout).splitlines():
        if not line.endswith(str(folder)) and not line.endswith(str(tmp_path / "tiny")):
            assert len(line) <= (102 if LINE.fullmatch(line) else 80), line
    progress = r"  epoch 1, loss \d\.\d{3}, step (\d+)/11(, [\d,]+ img/s)?(, \d+ s remaining)?\n"
    lines = re.findall(progress, slow.stdout)
    assert [int(steps) for steps, *_ in lines] == [2, 4, 6, 8, 10, 11]
    assert all(lines[-2])
    assert not re.findall(progress, done.stdout), "progress lines appear once a minute"


def test_every_step_and_epoch_is_in_the_metrics(single):
    _, folder = single
    assert [row["step"] for row in rows(folder, "step")] == list(range(1, 23))
    epochs = rows(folder, "epoch")
    assert [row["epoch"] for row in epochs] == [1, 2]
    steps = [row["loss"] for row in rows(folder, "step") if row["epoch"] == 1]
    sizes = [96] * 10 + [40]
    mean = sum(loss * size for loss, size in zip(steps, sizes, strict=True)) / 1000
    assert epochs[0]["train_loss"] == pytest.approx(mean, rel=1e-5), "a mean over samples, not over batches"


def test_class_accuracies_are_in_the_results_and_on_the_console_on_demand(single, shards):
    done, folder = single
    accuracies = result(folder)["class_accuracy"]
    assert len(accuracies) == 100
    assert result(folder)["top1"] == pytest.approx(sum(accuracies.values()) / 100)
    shown = train(folder.parent, shards, "--tracking.console_classes")
    for name, accuracy in accuracies.items():
        assert f"{name} {accuracy:.0%}" in shown.stdout
        assert name not in done.stdout


def test_the_resolved_configuration_is_saved(single, tmp_path, shards):
    _, folder = single
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["train"]["batch_size"] == 96
    assert saved["optim"]["beta2"] == 0.999, "defaults are saved too"
    copy = tmp_path / "copy.yaml"
    copy.write_text((folder / "config.yaml").read_text())
    done = run(trainer(tmp_path, shards, "--config", str(copy), "--runs_dir", str(tmp_path)))
    assert result(tmp_path / "tiny")["weights_sha256"] == result(folder)["weights_sha256"], done.stderr


def test_a_finished_run_is_not_trained_again(single, shards):
    _, folder = single
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    done = train(folder.parent, shards)
    assert "Already finished" in done.stdout
    assert "validation accuracy: top-1" in done.stdout
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_finished_run_can_be_extended(shards, tmp_path):
    train(tmp_path, shards, "--schedule.name", "baseline", "--train.epochs", "1")
    train(tmp_path, shards, "--schedule.name", "baseline", "--train.epochs", "2")
    assert [row["epoch"] for row in rows(tmp_path / "tiny", "epoch")] == [1, 2]
    assert state(tmp_path / "tiny")["attempt"] == 2


def test_several_processes_train_like_a_single_one(shards, tmp_path):
    """With SyncBatchNorm, runs with different numbers of processes differ only in the order of float summation.

    Plain SGD and few steps: Adam, or longer training, amplifies rounding errors of gradients near zero.
    """
    plain = ("--optim.name", "sgd", "--optim.momentum", "0", "--optim.lr", "0.02", "--schedule.start_lr", "0.02")
    losses = {}
    for processes in (0, 2, 3):
        folder = tmp_path / str(processes)
        flags = ("--train.sync_batchnorm", "true", "--train.max_steps_per_epoch", "3", "--train.epochs", "1")
        train(folder, shards, *flags, *plain, "--schedule.warmup_epochs", "0", processes=processes)
        losses[processes] = [row["loss"] for row in rows(folder / "tiny", "step")]
        evaluated = result(folder / "tiny")
        assert evaluated["samples"] == 200
        assert set(evaluated["class_samples"].values()) == {2}
    for processes in (2, 3):
        assert losses[processes] == pytest.approx(losses[0], rel=1e-4)


def test_the_device_cache_does_not_change_the_results(shards, tmp_path, uninterrupted):
    train(tmp_path, shards, "--data.cache", "device")
    assert outcome(tmp_path / "tiny") == uninterrupted()


def test_the_same_seed_gives_bit_identical_weights(shards, uninterrupted, tmp_path):
    train(tmp_path / "second", shards, processes=2, launcher=TORCHRUN)
    train(tmp_path / "other", shards, "--seed", "4", processes=2)
    assert outcome(tmp_path / "second" / "tiny") == uninterrupted(processes=2)
    second, other = (result(tmp_path / name / "tiny")["weights_sha256"] for name in ("second", "other"))
    assert second != other


@parametrize_some(
    "flags",
    [
        ("--train.precision", "bf16", "--optim.ema_decay", "0.9"),
        ("--train.precision", "fp16", "--optim.clip_norm", "1", "--optim.name", "muon", "--optim.lr", "0.1"),
        ("--train.grad_accum_steps", "3", "--optim.name", "sgd", "--optim.lr", "0.1", "--optim.weight_decay", "0.001"),
        ("--data.progressive_resizing_epochs", "2", "--data.initial_resolution", "16"),
        (
            "--augment.mixup_prob",
            "0.2",
            "--augment.cutmix_prob",
            "0.2",
            "--train.label_smoothing",
            "0.1",
            "--optim.lr",
            "0.01",
        ),
        (
            "--optim.name",
            "adamw",
            "--schedule.name",
            "onecycle",
            "--train.deterministic",
            "true",
            "--augment.cutout_size",
            "8",
        ),
    ],
    quick=2,
    ids=lambda flags: flags[1],
)
def test_every_kind_of_training_lowers_the_loss(shards, tmp_path, flags):
    train(tmp_path, shards, "--train.epochs", "3", *flags, processes=2)
    losses = [row["train_loss"] for row in rows(tmp_path / "tiny", "epoch")]
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler")
def test_compiled_and_eager_networks_agree(shards, tmp_path):
    flags = ("--train.epochs", "2", "--train.max_steps_per_epoch", "2", "--model.depth", "1")
    train(tmp_path / "eager", shards, *flags)
    train(tmp_path / "compiled", shards, *flags, "--train.compile", "true")
    eager, compiled = (rows(tmp_path / name / "tiny", "step") for name in ("eager", "compiled"))
    for row, expected in zip(compiled, eager, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def test_early_stopping_stops_all_ranks_after_the_same_epoch(shards, tmp_path):
    """With a learning rate of almost zero the validation accuracy of the first epochs is never exceeded."""
    still = ("--optim.lr", "1e-30", "--schedule.start_lr", "0", "--schedule.min_lr", "0")
    patience = ("--early_stopping.monitor", "val_top1", "--early_stopping.patience", "2")
    flags = (*still, *patience, "--optim.momentum", "0", "--train.epochs", "9", "--train.max_steps_per_epoch", "2")
    done = train(tmp_path, shards, *flags, "--optim.name", "sgd", processes=2)
    epochs = rows(tmp_path / "tiny", "epoch")
    accuracies = [row["val_top1"] for row in epochs]
    assert len(epochs) == 3 + accuracies.index(max(accuracies))
    assert f"Stopped early after {len(epochs)} epochs: val_top1 has not improved for 2 epochs" in done.stdout
    assert state(tmp_path / "tiny")["state"] == "finished"


def one_line_error(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--train.epoch", "3"), ("--train.epoch", "did you mean train.epochs?")),
        (("--train.batch_size", "many"), ("train.batch_size", "many")),
        (("--optim.lr", "-1"), ("optim.lr",)),
        (("--config", "no/such.yaml"), ("no/such.yaml",)),
        (("--model.depth", "0"), ("model.depth",)),
        (("--data.shards", "no/such/place"), ("no/such/place", "manifest.json")),
        (("--train.device", "cuda"), ("GPU",)),
        (("--name", "../x"), ("name",)),
        (("--runs_dir", str(TINY)), (f"{TINY} is not a directory", "Use another --runs_dir")),
    ],
    ids=lambda value: value[0],
)
def test_invalid_input_is_reported_in_one_line(shards, tmp_path, flags, words):
    one_line_error(run(trainer(tmp_path, shards, *flags)), *words)


def test_a_last_batch_too_small_for_the_ranks_is_rejected(shards, tmp_path):
    done = run(trainer(tmp_path, shards, "--train.batch_size", "999", processes=2))
    assert done.returncode == 2, done.stderr
    assert "the last of 2 batches has 1 of 1000 training images" in done.stderr
    train(tmp_path, shards, "--train.batch_size", "999", "--data.drop_last", "true", processes=2)


def test_a_run_is_not_resumed_with_a_different_configuration(single, shards):
    _, folder = single
    one_line_error(run(trainer(folder.parent, shards, "--seed", "9")), "seed was 3, now 9")
    one_line_error(run(trainer(folder.parent, shards, "--resume", "never")), "already contains a run")


def test_print_config_and_help_show_every_option(shards, tmp_path):
    from regnet.config.parser import option_names

    shown = run(trainer(tmp_path, shards, "--print_config"))
    assert yaml.safe_load(shown.stdout)["train"]["batch_size"] == 96
    assert set(yaml.safe_load(TINY.read_text())) <= set(yaml.safe_load(shown.stdout))
    text = run(trainer(tmp_path, shards, "--help")).stdout
    sections = {name.partition(".")[0] for name in option_names() if "." in name}
    for name in set(option_names()) - sections:
        assert f"--{name} " in text
    described = re.findall(r"--[\w.]+ [^\n]*\n?\s+[a-zA-Z]", text)
    assert len(described) >= len([name for name in option_names() if "." in name])


def test_metrics_are_json_lines(single):
    _, folder = single
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["kind"] in ("step", "epoch")


def test_every_rank_accumulates_over_the_same_number_of_parts(shards, tmp_path):
    """17 samples over two ranks are 8 and 9; split into eight parts each, the ranks would run different collectives."""
    flags = ("--train.batch_size", "983", "--train.grad_accum_steps", "8", "--train.sync_batchnorm", "true")
    train(tmp_path, shards, *flags, "--schedule.warmup_epochs", "0", "--train.epochs", "1", processes=2)
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == [1, 2]
