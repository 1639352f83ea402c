"""Configuration files and flags are read as they are written; --help and --print_config show them."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from configurations import OPTIONS, parse_text
from hypothesis import example, given
from hypothesis import strategies as st
from thoroughness import examples

from data.open_loaders import LoaderOptions
from regnet.config.parser import parse_config
from regnet.config.schema import Config, EarlyStoppingConfig, OptimConfig, TrackingConfig
from regnet.models.design_space import Variant

ROOT = Path(__file__).parents[1]


def test_an_empty_command_line_is_the_default():
    assert parse_config([]) == Config()


def test_later_values_win():
    assert parse_text("seed: 2", "--seed=3").seed == 3
    assert parse_config(["--seed=3", "--seed=4"]).seed == 4
    assert parse_text("train: {epochs: 8, batch_size: 3}", "--train.epochs", "7").train.batch_size == 3
    assert parse_text("train: {epochs: 8, batch_size: 3}", "--train.epochs", "7").train.epochs == 7


def test_later_files_win_and_flags_before_a_file_lose(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\ntrain: {epochs: 8, batch_size: 3}")
    (tmp_path / "b.yaml").write_text("train: {epochs: 9}")
    files = [f"--config={tmp_path}/a.yaml", f"--config={tmp_path}/b.yaml"]
    config = parse_config(files)
    assert (config.seed, config.train.batch_size, config.train.epochs) == (1, 3, 9)
    assert parse_config(files[::-1]).train.epochs == 8
    assert parse_config(["--seed=5", *files]).seed == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--train.compile"],
        ["--train.compile", "--seed", "3"],
        ["--train.compile", "true"],
        ["--train.compile=true"],
        ["--train.compile=Yes"],
    ],
)
def test_a_flag_without_a_value_is_true(flags):
    assert parse_config(flags).train.compile is True
    assert parse_config([*flags, "--train.compile=false"]).train.compile is False
    assert parse_config(["--augment.flip", "false", "--train.compile", *flags]).train.compile is True


def test_values_have_plain_types():
    config = parse_text("optim: {lr: 1}", "--train.epochs=30", "--model.variant=paper")
    assert type(config.optim.lr) is float
    assert type(config.train.epochs) is int
    assert config.model.variant is Variant.paper


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configuration_parses_and_is_named_as_its_file(path):
    assert parse_config(["--config", str(path)]).name == path.stem


def test_baseline_config_is_the_original_network():
    config = parse_config(["--config", str(ROOT / "configs" / "baseline.yaml")])
    assert [stage.width for stage in config.model.design().stages] == [24, 64, 152, 376]
    assert (config.data.resolution, config.train.epochs, config.optim.name) == (56, 40, "adam")
    assert config.train.init_std == 0.01, "its initial loss is then the original program's"


words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12)
configs = st.builds(
    Config,
    name=words,
    seed=st.integers(0, 2**63 - 1),
    optim=st.builds(
        OptimConfig,
        name=st.sampled_from(["adam", "adamw", "sgd"]),
        lr=st.floats(1e-5, 1e6),
        momentum=st.floats(0, 1, exclude_max=True),
        decay_norm_and_bias=st.booleans(),
    ),
    early_stopping=st.builds(EarlyStoppingConfig, patience=st.integers(0, 10**6)),
    tracking=st.builds(TrackingConfig, wandb_project=texts, wandb_group=texts, wandb_timeout=st.floats(1e-9, 1e6)),
)


@given(configs)
@example(Config(name="1e5"))
@example(Config(name="12e4", tracking=TrackingConfig(wandb_group="1e-5")))
@example(Config(name="null", tracking=TrackingConfig(wandb_group="2020-01-01", wandb_project="0x10")))
@examples(40)
def test_a_written_configuration_reads_back_as_an_equal_one(config):
    assert parse_text(config.to_yaml()) == config


def test_every_option_is_written():
    written = yaml.safe_load(Config().to_yaml())
    for name in OPTIONS:
        section, _, leaf = name.rpartition(".")
        assert leaf in (written[section] if section else written)


def run_and_exit(capsys, *flags):
    """What parse_config prints before it exits."""
    with pytest.raises(SystemExit) as exited:
        parse_config(flags)
    assert exited.value.code == 0
    return capsys.readouterr().out


def test_print_config_prints_the_configuration_that_would_be_used(capsys):
    text = run_and_exit(capsys, "--print_config", "--train.epochs", "30", "--train.compile")
    assert parse_text(text) == parse_config(["--train.epochs", "30", "--train.compile"])
    assert run_and_exit(capsys, "--train.epochs=30", "--train.compile", "--print_config") == text


def test_help_starts_with_what_the_program_does_and_the_first_options(capsys):
    text = run_and_exit(capsys, "--help")
    start, _, everything = text.partition("All options:")
    assert start.startswith("usage: train_ddp.py --config FILE [--section.option VALUE ...]\n\nTrains a RegNet ")
    first = re.findall(r"^  --?([\w.]+)", start, re.MULTILINE)
    for name in ("config", "name", "train.epochs", "train.batch_size", "optim.lr", "data.shards", "overwrite"):
        assert name in first
    assert len(first) < 12
    for arguments in re.findall(r"train_ddp.py (.*)", start.partition("Examples:")[2]):
        parse_config([str(ROOT / word) if word.startswith("configs/") else word for word in arguments.split()])
    assert re.findall(r"^  --([\w.]+)", everything, re.MULTILINE) == OPTIONS


def test_help_shows_choices_bounds_and_defaults_and_no_internal_names(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = run_and_exit(capsys, "-h")
    assert "--optim.name {adam,adamw,sgd,muon}" in text
    assert "--augment.flip [true|false]" in text
    assert "(positive number; default: 0.001)" in text
    assert text.count("default: ") >= len(OPTIONS)
    assert "Literal" not in text
    assert "CONFIG" not in text
    assert max(map(len, text.splitlines())) <= 120
    monkeypatch.setenv("COLUMNS", "70")
    options = run_and_exit(capsys, "-h").partition("All options:")[2]
    assert max(map(len, options.splitlines())) <= 70


def read_names(path):
    """Names of all attributes that a file's code reads, and of all parameters of its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg


def test_every_option_is_read_by_the_program():
    judges = ("schema.py", "validation.py", "adaptation.py", "aliases.py")  # checking an option is not using it
    folders = (ROOT / "regnet", ROOT / "data" / "augment")
    files = [path for folder in folders for path in folder.rglob("*.py") if path.name not in judges]
    files.append(ROOT / "train_ddp.py")
    read = {name for path in files for name in read_names(path)} | {field.name for field in fields(LoaderOptions)}
    assert [name for name in OPTIONS if name.rpartition(".")[2] not in read] == []
