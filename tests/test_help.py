"""--help of the commands for trained networks: every option has a description and its default."""

import importlib

import pytest
from fork_server import ForkedCommand
from processes import run

COMMANDS = ("evaluate", "export.__main__", "predict", "report.__main__", "summary")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described_with_its_default(command):
    for option in importlib.import_module(f"regnet.{command}").parser()._actions:
        name = option.option_strings[-1] if option.option_strings else option.dest
        assert option.help, name
        has_default = option.const is True or option.default not in (None, "==SUPPRESS==", False)
        assert ("default: " in option.help) >= has_default, name
        if option.choices is None and option.nargs != 0:
            assert option.metavar is not None, f"{name} is followed by {option.dest.upper()}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_a_sentence_and_lists_examples_line_by_line(command):
    done = run(ForkedCommand(["-m", f"regnet.{command.removesuffix('.__main__')}", "--help"]))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.endswith(".") and line[0].isupper() for line in lines if line), "a sentence"
    examples = lines[lines.index("examples:") + 1 :]
    assert examples[0].lstrip().startswith(("python -m regnet.", "torchrun"))


def test_summary_and_doctor_explain_how_to_name_a_configuration():
    for command in ("summary", "doctor"):
        done = run(ForkedCommand(["-m", f"regnet.{command}", "--help"]))
        assert done.returncode == 0, done.stderr
        assert "--config FILE" in done.stdout
        assert "--section.option VALUE" in done.stdout
