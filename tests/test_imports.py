"""Which libraries a training imports: those that take long are imported only where they are used."""

import re

import pytest
from programs import PYTHON, run, trainer

_MODULE = re.compile(r"^import time:[\d |]+?(\S+)$", re.MULTILINE)


def imported(run_dir, shards, *flags):
    """The modules that a complete training imports."""
    done = run(trainer(run_dir, shards, *flags, launcher=(*PYTHON, "-X", "importtime")))
    assert done.returncode == 0, done.stderr
    modules = set(_MODULE.findall(done.stderr))
    assert {"torch", "regnet.training.trainer"} <= modules
    return modules


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_training_imports_no_compiler_no_wandb_and_no_matplotlib(shards, tmp_path, optimizer):
    flags = ("--optim.name", optimizer, "--train.max_steps_per_epoch", "2", "--schedule.name", "baseline")
    unused = {"torch._dynamo", "torch._inductor", "wandb", "matplotlib"}
    assert not imported(tmp_path, shards, *flags, "--train.epochs", "1") & unused
    # Resumed, with the optimiser's state from the checkpoint.
    assert not imported(tmp_path, shards, *flags, "--train.epochs", "2") & unused
