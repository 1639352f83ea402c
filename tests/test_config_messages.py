"""The exact messages about rejected options: the option, what is valid, and the value or the remedy."""

import pytest
from rejections import rejection_message


def test_a_message_about_a_long_file_is_short():
    assert len(rejection_message("- " + "x" * 100_000)) < 1000


def test_a_number_with_more_digits_than_python_reads_is_rejected():
    message = rejection_message(flags=[f"--train.epochs={5000 * '1'}"])
    assert message == f"train.epochs must be a positive integer, got {60 * '1'}..."


SCHEDULES = "one of cosine, onecycle, baseline"
NAME = "a letter or digit and contain only letters, digits, '.', '_' and '-'"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--train.epochs=three", "train.epochs must be a positive integer, got 'three'"),
        ("--train.epochs=0", "train.epochs must be a positive integer, got 0"),
        ("--train.epochs=2.5", "train.epochs must be a positive integer, got 2.5"),
        ("--train.epochs=", "train.epochs must be a positive integer, got ''"),
        ("--train.epochs=3000000000", "train.epochs must be at most 2147483647, got 3000000000"),
        ("--model.depth=deep", "model.depth must be an integer, got 'deep'"),
        ("--optim.lr=fast", "optim.lr must be a positive number, got 'fast'"),
        ("--optim.lr=nan", "optim.lr must be a positive number, got nan"),
        ("--optim.lr=inf", "optim.lr must be at most 1000000, got inf"),
        ("--optim.momentum=1", "optim.momentum must be a number in [0, 1), got 1"),
        ("--augment.cutmix_prob=1.1", "augment.cutmix_prob must be a number in [0, 1], got 1.1"),
        ("--data.workers=0", "data.workers must be an integer from 1 to 1000, got 0"),
        ("--augment.flip=maybe", "augment.flip must be true or false, got 'maybe'"),
        ("--schedule.name=cosin", f"schedule.name must be {SCHEDULES}, got 'cosin' (did you mean cosine?)"),
        ("--model.variant=papper", "model.variant must be one of baseline, paper, got 'papper' (did you mean paper?)"),
        ("--schedule.name=reference", f"schedule.name must be {SCHEDULES}, got 'reference' (did you mean baseline?)"),
        ("--train.precision=int8", "train.precision must be one of fp32, bf16, fp16, got 'int8'"),
        ("--optim.learning_rate=1", "unknown option --optim.learning_rate (did you mean optim.lr?)"),
        ("--train.accumulate=2", "unknown option --train.accumulate (did you mean train.grad_accum_steps?)"),
        ("--batch-size=2", "unknown option --batch-size (did you mean train.batch_size?)"),
        ("--optim.wd=2", "unknown option --optim.wd (did you mean optim.weight_decay?)"),
        ("--seed", "--seed needs a value: --seed VALUE"),
        ("--train.epochs= 5", "train.epochs must be a positive integer, got ' 5'"),
        ("--train.epochs=１２", "train.epochs must be a positive integer, got '１２'"),
        ("--optim.lr=0.1 ", "optim.lr must be a positive number, got '0.1 '"),
        ("--optim.lr=０.１", "optim.lr must be a positive number, got '０.１'"),
        ("--name=a/b", f"name must start with {NAME}, got 'a/b'"),
        (f"--name={'a' * 300}", "name must have at most 255 characters, got 300: it names a directory"),
        ("--runs_dir=", "runs_dir must not be empty (the current directory is .)"),
        ("--data.shards=", "data.shards must not be empty (the current directory is .)"),
        ("--config=", "--config: the path is empty (the current directory is .)"),
        ("--runs_dir=\udce9", "runs_dir must be text that the locale can encode, such as UTF-8, got '\\udce9'"),
        ("--optim.lr=0.000001", "schedule.start_lr (1e-05) must not exceed optim.lr (1e-06), the peak learning rate"),
        ("--train.grad_accum_steps=501", "train.grad_accum_steps (501) must not exceed train.batch_size (500)"),
        ("train", "unexpected argument 'train': options are given as --section.option VALUE"),
    ],
)
def test_messages_name_the_option_what_is_valid_and_the_value(flag, message):
    assert rejection_message(flags=[flag]) == message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data.progressive_resizing_epochs=40"],
            "data.progressive_resizing_epochs (40) must be smaller than train.epochs (40): the last epochs train at "
            "data.resolution",
        ),
        (
            ["--data.progressive_resizing_epochs=4", "--data.initial_resolution=57"],
            "data.initial_resolution (57) must not exceed data.resolution (56)",
        ),
        (
            ["--augment.mixup_prob=0.7", "--augment.cutmix_prob=0.5"],
            "augment.mixup_prob (0.7) and augment.cutmix_prob (0.5) must add up to at most 1: a sample gets either "
            "Mixup or CutMix",
        ),
        (
            ["--augment.rrc_min_scale=0.25", "--data.cache=device"],
            "data.cache device keeps whole images and cannot be combined with augment.rrc_min_scale (0.25): set "
            "data.cache to auto or none",
        ),
        (
            ["--model.weights=x.pt", "--train.init_std=0.1"],
            "train.init_std (0.1) must be 0 with model.weights, which replace the initialisation",
        ),
        (
            ["--model.weights=x.pt", "--train.zero_init_residual"],
            "train.zero_init_residual must be false with model.weights, which replace the initialisation",
        ),
        (
            ["--train.freeze_backbone", "--train.drop_path=0.1"],
            "train.drop_path (0.1) must be 0 with train.freeze_backbone: frozen blocks are never skipped",
        ),
    ],
)
def test_messages_about_several_options_name_their_values_and_the_remedy(flags, message):
    assert rejection_message(flags=flags) == message


def test_a_message_about_a_file_starts_with_its_path(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {epochs: three}")
    assert (
        rejection_message(flags=["--config", str(path)])
        == f"{path}: train.epochs must be a positive integer, got 'three'"
    )
    path.write_text("name: [7]")
    assert rejection_message(flags=["--config", str(path)]) == f"{path}: name must be a string, got [7]"
    path.write_text("name: !!int 7")
    assert rejection_message(flags=["--config", str(path)]) == f"{path}: name must be a string, got 7"
    path.write_text("train: {epochs: [1, 2]}")
    assert (
        rejection_message(flags=["--config", str(path)])
        == f"{path}: train.epochs must be a positive integer, got [1, 2]"
    )
    path.write_text("optimizer: {lr: 1}")
    assert (
        rejection_message(flags=["--config", str(path)])
        == f"{path}: unknown option optimizer.lr (did you mean optim.lr?)"
    )
