"""Exports whose logits are not finite, numbers as options, and the endings of files."""

from dataclasses import asdict

import pytest
import safetensors.torch
from fork_server import ForkedCommand
from processes import TINY, run

from regnet.checkpoint.file import load, pack
from regnet.checkpoint.load_model import untrained_model
from regnet.config.parser import parse_config
from regnet.config.schema import to_plain_types
from regnet.errors import UsageError
from regnet.evaluate import evaluate_checkpoint
from regnet.export.weights_export import export_weights

pytestmark = pytest.mark.xdist_group("export")


@pytest.fixture
def checkpoint(tmp_path):
    config = parse_config(("--config", str(TINY)))
    state_dict = untrained_model(("--config", str(TINY)), 5).model.state_dict()
    saved = {
        "model": state_dict,
        "ema": None,
        "config": to_plain_types(asdict(config)),
        "data": "",
        "classes": list("abcde"),
        "progress": {"epoch": 1},
    }
    path = tmp_path / "best.pt"
    path.write_bytes(pack(saved))
    return path


def command(module, *arguments):
    return run(ForkedCommand(["-m", f"regnet.{module}", *map(str, arguments)]))


def test_logits_that_are_not_finite_are_a_failure_and_not_a_difference_of_zero(checkpoint, tmp_path):
    saved = load(checkpoint)
    for name, tensor in saved["model"].items():
        if name.endswith("weight"):
            tensor.mul_(1e30)
    checkpoint.write_bytes(pack(saved))
    done = command("export", "--checkpoint", checkpoint, "--onnx", tmp_path / "model.onnx")
    assert done.returncode == 1, done.stdout
    assert f"failed: logits of {checkpoint} are not finite, so they cannot be compared\n" in done.stderr
    assert "difference" not in done.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("export", ("--tolerance", "nan"), "argument --tolerance: must be a positive number, got 'nan'"),
        ("export", ("--tolerance", "-1"), "argument --tolerance: must be a positive number, got '-1'"),
        ("export", ("--tolerance", "1e-4x"), "argument --tolerance: must be a positive number, got '1e-4x'"),
        ("summary", ("--classes", "0"), "argument --classes: must be a positive integer, got '0'"),
        ("summary", ("--classes", "ten"), "argument --classes: must be a positive integer, got 'ten'"),
        ("relaunch", ("--check", "--limit", "-3"), "argument --limit: must be a positive integer, got '-3'"),
    ],
)
def test_numbers_are_checked_in_one_line(checkpoint, module, arguments, words):
    required = ("--checkpoint", checkpoint) if module == "export" else ()
    done = command(module, *required, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_ending_of_a_file_counts_in_upper_case_too(checkpoint, tmp_path):
    path = tmp_path / "a b.SAFETENSORS"
    done = command("export", "--checkpoint", checkpoint, "--weights", path)
    assert done.returncode == 0, done.stderr
    assert safetensors.torch.load(path.read_bytes()).keys() == load(checkpoint)["model"].keys()
    untrained_model(("--config", str(TINY), "--model.weights", str(path)), 5)


def test_functions_reject_unknown_choices_as_the_commands_do(checkpoint, tmp_path):
    with pytest.raises(UsageError, match=r"^names must be one of regnet, torchvision, timm, got 'pycls'$"):
        export_weights(checkpoint, tmp_path / "weights.safetensors", names="pycls")
    with pytest.raises(UsageError, match=r"^device must be one of auto, cpu, cuda, got 'tpu'$"):
        evaluate_checkpoint(checkpoint, device="tpu")
