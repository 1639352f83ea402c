"""Files and flags follow the same rules: values as they are written, expanded paths, no key twice."""

import pytest
from configurations import OPTIONS
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from processes import TINY, run

from regnet.config.parser import option_types, parse_config
from regnet.config.types import PathText
from regnet.errors import UsageError

PATHS = [name for name in OPTIONS if option_types()[name] == PathText]


def from_file(folder, text):
    path = folder / "run.yaml"
    path.write_text(text)
    return parse_config(["--config", str(path)])


def rejection(action, *arguments):
    with pytest.raises(UsageError) as caught:
        action(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("text", ["010", "0x10", "0o17", "1:30", "128.0", "1e2", "٣", "1__0", "_1", "1_", ".inf"])
def test_a_number_that_yaml_would_reinterpret_is_rejected_as_it_is_written(tmp_path, text):
    hint = ": write it without leading zeros" if text == "010" else ""
    shown = text if text in ("010", "128.0", "1e2") else repr(text)
    message = f"train.batch_size must be a positive integer, got {shown}{hint}"
    assert rejection(from_file, tmp_path, f"train: {{batch_size: {text}}}") == f"{tmp_path}/run.yaml: {message}"
    assert rejection(parse_config, [f"--train.batch_size={text}"]) == message


@given(st.from_regex(r"[0-9a-fox_:.+-]{1,6}", fullmatch=True), st.sampled_from(["train.batch_size", "optim.lr"]))
def test_a_file_and_a_flag_accept_the_same_numbers(tmp_path_factory, text, name):
    folder = tmp_path_factory.getbasetemp()
    outcomes = []
    for read, arguments in ((from_file, (folder, f'{name}: "{text}"')), (parse_config, ([f"--{name}={text}"],))):
        try:
            outcomes.append(read(*arguments))
        except UsageError as error:
            outcomes.append(str(error).removeprefix(f"{folder}/run.yaml: "))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", ["007", "1e3", "on", "2026-01-31", "0x1F"])
def test_a_name_is_read_as_it_is_written(tmp_path, name):
    assert from_file(tmp_path, f"name: {name}").name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: x\nseed: 2", "seed is given twice, in lines 1 and 3"),
        ("optim:\n  lr: 1\n  lr: 1", "lr is given twice, in lines 2 and 3"),
        ("optim: {lr: 1}\ntrain: {}\noptim: {lr: 2}", "optim is given twice, in lines 1 and 3"),
        ("optim: {lr: 1}\noptim.lr: 2", "optim.lr is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_rejected(tmp_path, text, message):
    assert rejection(from_file, tmp_path, text) == f"{tmp_path}/run.yaml: {message}"


def test_a_merged_key_may_be_overridden(tmp_path):
    text = "optim: &base {lr: 0.5, momentum: 0.1}\nearly_stopping: {patience: 3}\ntrain: {epochs: 3}\n"
    assert from_file(tmp_path, text).optim.lr == 0.5
    merged = "optim: {<<: {lr: 0.5, momentum: 0.1}, lr: 0.25}"
    assert (from_file(tmp_path, merged).optim.lr, from_file(tmp_path, merged).optim.momentum) == (0.25, 0.1)


@pytest.mark.parametrize("text", ["model: &a {model: *a}", "name: &a [*a]", "x: &a {x: *a}"])
def test_a_file_that_contains_itself_is_rejected_in_a_short_line(tmp_path, text):
    message = rejection(from_file, tmp_path, text)
    assert len(message.splitlines()) == 1
    assert len(message) < 300


def test_later_flags_win(tmp_path):
    assert parse_config(["--seed", "1", "--seed", "2"]).seed == 2


@pytest.mark.parametrize("name", PATHS)
def test_paths_are_expanded_in_files_and_flags(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/local disk")
    for text, expanded in (("~/x  y", "/home/me/x  y"), ("${DISK}/x", "/local disk/x"), ("x/~", "x/~")):
        for config in (from_file(tmp_path, f"{name}: {text}"), parse_config([f"--{name}={text}"])):
            section, _, option = name.rpartition(".")
            assert getattr(getattr(config, section) if section else config, option) == expanded
    assert rejection(parse_config, [f"--{name}=$MISSING/x"]) == (
        f"{name}: $MISSING/x: the environment variable MISSING is not set"
    )


def test_every_path_of_the_configuration_is_expanded():
    assert PATHS == ["runs_dir", "model.weights", "data.shards", "data.local_cache_dir", "distill.teacher"]


def test_the_path_of_a_configuration_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("seed: 5")
    assert parse_config(["--config=~/mine.yaml"]).seed == 5


@pytest.mark.parametrize("option", ["evaluate --checkpoint", "predict --onnx", "export --onnx", "summary --checkpoint"])
def test_paths_of_commands_are_expanded(tmp_path, option):
    command, flag = option.split()
    images = ["image.png"] if command == "predict" else []
    required = ["--checkpoint", "c.pt"] if command == "export" else []
    done = run(ForkedCommand(["-m", f"regnet.{command}", f"{flag}=~/absent/x", *required, *images]), HOME=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "~" not in done.stderr


@pytest.mark.parametrize("value", ["-h", "--help", "--print_config"])
def test_a_request_for_help_may_be_the_value_of_an_option(value):
    assert parse_config([f"--runs_dir={value}"]).runs_dir == value
    with pytest.raises(SystemExit):
        parse_config(["--overwrite", value])
    with pytest.raises(SystemExit):
        parse_config(["--name", "x", value, "--seed", "3"])


def test_a_value_that_looks_like_help_is_a_value(capsys):
    assert parse_config(["--runs_dir", "-h"]).runs_dir == "-h"
    assert capsys.readouterr().out == ""


def test_print_config_refuses_what_a_run_refuses():
    done = run(ForkedCommand(["train_ddp.py", "--config", str(TINY), "--train.grad_accum_steps=97", "--print_config"]))
    assert (done.returncode, done.stdout) == (2, "")
    assert "train.grad_accum_steps (97) must not exceed train.batch_size (96)" in done.stderr


@pytest.mark.parametrize("flag", ["--help=x", "--print_config=x", "-h=x"])
def test_an_action_takes_no_value(flag):
    assert flag.partition("=")[0] in rejection(parse_config, [flag])
