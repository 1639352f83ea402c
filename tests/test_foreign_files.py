"""Weights as other programs save them: what is accepted, and the cure for what is not."""

import pytest
import torch
from processes import TINY

from regnet.checkpoint.file import CheckpointError
from regnet.checkpoint.load_model import untrained_model

ALONE = "save the weights alone: torch.save(model.state_dict(), FILE), without a wrapper such as DDP's"
WEIGHTS = untrained_model(("--config", str(TINY)), 5).model.state_dict()


def with_prefix(prefix):
    return {f"{prefix}{name}": value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "arch": "regnet", "state_dict": WEIGHTS}, "epoch is not a tensor of real numbers"),
        ({"model": WEIGHTS, "optimizer": {}}, "model is not a tensor of real numbers"),
        (with_prefix("module."), "its names begin with module."),
        (with_prefix("_orig_mod."), "its names begin with _orig_mod."),
        (with_prefix("model."), "its names begin with model."),
        ({"state_dict": WEIGHTS, "device": torch.nn.Linear(1, 1)}, "(UnpicklingError)"),
    ],
    ids=["timm", "torchvision", "DDP", "compile", "Lightning", "objects"],
)
def test_training_checkpoints_and_wrappers_are_rejected_with_the_cure(tmp_path, content, words):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError) as caught:
        untrained_model(("--config", str(TINY), "--model.weights", str(tmp_path / "weights.pth")), 5)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/weights.pth: not ")
    assert words in message
    assert message.endswith(ALONE)


def test_an_entry_that_is_no_tensor_is_reported_without_that_cure(tmp_path):
    torch.save({**WEIGHTS, "counter": 3}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"counter is not a tensor of real numbers$"):
        untrained_model(("--config", str(TINY), "--model.weights", str(tmp_path / "weights.pth")), 5)
