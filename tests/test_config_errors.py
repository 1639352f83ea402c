"""An invalid value, section, file or command line is rejected with the name of what is wrong."""

import pytest
from configurations import SECTIONS
from rejections import option_as_yaml, rejection_message

from regnet.config.parser import parse_config

INVALID = [
    ("name", "[1]"),
    ("name", "a/b"),
    ("name", "''"),
    ("seed", "-1"),
    ("seed", "x"),
    ("seed", "1.5"),
    ("seed", "18446744073709551616"),
    ("resume", "maybe"),
    ("model.variant", "bogus"),
    ("model.depth", "0"),
    ("model.depth", "2.5"),
    ("model.depth", "true"),
    ("model.w_0", "12"),
    ("model.w_a", ".nan"),
    ("model.w_a", "1.0e+308"),
    ("model.w_m", "1"),
    ("model.bottleneck_ratio", "0"),
    ("model.group_width", "24"),
    ("data.shards", "[3]"),
    ("data.resolution", "7"),
    ("data.resolution", "0"),
    ("data.verify", "bogus"),
    ("data.loader_timeout", "0"),
    ("data.loader_timeout", ".inf"),
    ("data.loader_timeout", "1.0e+300"),
    ("data.resolution", "100000"),
    ("data.prefetch_batches", "100000000000"),
    ("augment.cutout_size", "100000000000000000000"),
    ("augment.crop_padding", "1000000000"),
    ("train.batch_size", "1000000000000000000000"),
    ("tracking.wandb_timeout", "1.0e+300"),
    ("augment.crop_padding", "-1"),
    ("augment.flip", "maybe"),
    ("train.epochs", "0"),
    ("train.epochs", "x"),
    ("train.epochs", "[1]"),
    ("train.epochs", "{a: 1}"),
    ("train.grad_accum_steps", "501"),
    ("train.device", "bogus"),
    ("optim.lr", "0"),
    ("optim.lr", ".nan"),
    ("optim.lr", ".inf"),
    ("optim.lr", "1" + 400 * "0"),
    ("optim.momentum", "1"),
    ("optim.weight_decay", "-0.1"),
    ("optim.weight_decay", ".inf"),
    ("schedule.name", "linear"),
    ("schedule.start_lr", "0.01"),
    ("schedule.min_lr", "0.01"),
    ("early_stopping.monitor", "bogus"),
    ("tracking.wandb", "bogus"),
    ("tracking.log_every", "0"),
    ("distributed.timeout", "-1"),
    ("distributed.timeout", ".inf"),
    ("distributed.heartbeat_timeout", "1.0e+300"),
]


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_an_invalid_value_in_a_file_is_rejected_with_the_option(name, value):
    message = rejection_message(option_as_yaml(name, value))
    assert name in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value in INVALID if value not in ("[3]", "[1]", "''")]
)
def test_an_invalid_value_of_a_flag_is_rejected_with_the_option(name, value):
    assert name in rejection_message(flags=[f"--{name}={value}"])


@pytest.mark.parametrize(
    "name", ["name", "seed", "resume", "model.variant", "model.w_a", "data.drop_last", "optim.lr", "optim.momentum"]
)
def test_null_is_rejected_with_the_option(name):
    assert f"{name} has no value" in rejection_message(option_as_yaml(name, "null"))


@pytest.mark.parametrize(
    ("section", "value"),
    [(section, "3") for section in SECTIONS] + [("model", value) for value in ("null", "true", "[1]", "[]", "nope")],
)
def test_a_value_instead_of_a_section_is_rejected(section, value):
    assert f"{section} is a section of options" in rejection_message(f"{section}: {value}")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--data.initial_resolution=57"], "data.initial_resolution"),
        (["--data.initial_resolution=7"], "data.initial_resolution"),
        (["--train.epochs=6"], "data.progressive_resizing_epochs"),
    ],
)
def test_progressive_resizing_must_start_small_enough_for_the_data_and_end_in_time(flags, named):
    assert named in rejection_message(flags=["--data.progressive_resizing_epochs=6", *flags])
    assert parse_config(["--data.progressive_resizing_epochs=0", *flags])


def test_a_missing_file_is_named(tmp_path):
    for missing in (tmp_path / "none.yaml", tmp_path):
        assert str(missing) in rejection_message(flags=["--config", str(missing)])


@pytest.mark.parametrize(
    "text", ["", "null", "[1, 2]", "- seed: 1", "3", "just words", "a: [1", "\t", "\0", b"\xff\xfe\xfa"]
)
def test_a_file_without_a_mapping_of_options_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "broken.yaml" in rejection_message(flags=["--config", str(path)])


@pytest.mark.parametrize(
    "flags", [["stray"], ["--seed"], ["--config"], ["--seed="], ["--train", "3"], ["-n", "3"], ["--"]]
)
def test_incomplete_or_stray_arguments_are_rejected(flags):
    assert flags[0].rstrip("=").removeprefix("--") in rejection_message(flags=flags)


@pytest.mark.parametrize("text", ['"a\\0b"', '"a\\nb"'])
def test_a_character_that_no_file_name_may_contain_is_rejected(text):
    assert "runs_dir must not contain control characters" in rejection_message(f"runs_dir: {text}")
    assert "data.shards must not contain control characters" in rejection_message(f"data: {{shards: {text}}}")


def test_an_excessive_depth_is_rejected_at_once():
    assert "model.depth" in rejection_message("model: {depth: 1000000000}")
