"""Which libraries a training imports: those that take long are imported only where they are used."""

import re

import pytest
from processes import PYTHON, ROOT, TINY, TORCHRUN, run, trainer
from thoroughness import parametrize_some

_MODULE = re.compile(r"^import time:[\d |]+?(\S+)$", re.MULTILINE)


def imported_modules(run_dir, shards, *flags, launcher=(*PYTHON, "-X", "importtime"), processes=0, **env):
    """The modules that a complete training imports."""
    done = run(trainer(run_dir, shards, *flags, launcher=launcher, processes=processes), **env)
    assert done.returncode == 0, done.stderr
    modules = set(_MODULE.findall(done.stderr))
    assert {"torch", "regnet.training.trainer"} <= modules
    return modules


@parametrize_some("optimizer", ["adamw", "sgd", "muon"])
def test_a_training_imports_no_compiler_no_wandb_and_no_matplotlib(shards, tmp_path, optimizer):
    flags = ("--optim.name", optimizer, "--train.max_steps_per_epoch", "2", "--schedule.name", "baseline")
    unused = {"torch._dynamo", "torch._inductor", "sympy", "wandb", "matplotlib"}
    assert not imported_modules(tmp_path, shards, *flags, "--train.epochs", "1") & unused
    # Resumed, with the optimiser's state from the checkpoint.
    assert not imported_modules(tmp_path, shards, *flags, "--train.epochs", "2") & unused


@pytest.mark.thorough
def test_ranks_import_no_compiler(shards, tmp_path):
    flags = ("--train.max_steps_per_epoch", "2", "--train.epochs", "1")
    modules = imported_modules(tmp_path, shards, *flags, launcher=TORCHRUN, processes=2, PYTHONPROFILEIMPORTTIME="1")
    assert not modules & {"torch._dynamo", "torch._inductor", "sympy"}
    assert "torch.distributed.elastic.agent.server.api" in modules, "torchrun's own imports are listed as well"


@pytest.mark.thorough
def test_an_unknown_question_of_ddp_to_the_compiler_is_answered_by_the_compiler():
    program = """
import sys, torch
from regnet.distributed.eager_ddp import EagerDdp, ddp_class
from torch.nn.parallel import DistributedDataParallel
def construct(self):
    assert torch._dynamo.utils.get_optimize_ddp_mode() != "python_reducer" and "torch._dynamo" not in sys.modules
    assert torch._dynamo.config.optimize_ddp and torch._dynamo.utils.counters is not None
DistributedDataParallel.__init__ = construct
assert ddp_class() is EagerDdp
EagerDdp()
assert torch._dynamo is sys.modules["torch._dynamo"] and ddp_class() is DistributedDataParallel
"""
    done = run([*PYTHON, "-c", program], PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


def test_garbage_collection_is_paused_during_the_imports_alone(shards, tmp_path):
    """Frozen objects are those of the imports, during which thousands of collections would have run."""
    program = f"""
import atexit, gc, os, runpy, sys
os._exit = lambda code: sys.exit(code)  # so that the lines below run
sys.argv = ["train_ddp.py", "--config", "{TINY}", "--runs_dir", "{tmp_path}", "--data.shards", "{shards}", "--help"]
atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 100_000, gc.get_stats()[0]["collections"] < 100))
runpy.run_path("train_ddp.py", run_name="__main__")
"""
    done = run([*PYTHON, "-c", program])
    assert done.stdout.endswith("True True True\n"), done.stderr
