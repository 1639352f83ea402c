"""Commands that may run in several processes exit without the interpreter's clean-up, which may abort them."""

import pytest
from failing_clean_up import failing_clean_up
from processes import PYTHON, ROOT, run

NO_SHARDS = ("--data.shards", "no/shards")
COMMANDS = {
    "train_ddp": (str(ROOT / "train_ddp.py"), "--config", "configs/debug.yaml", *NO_SHARDS),
    "evaluate": ("-m", "regnet.evaluate", "--checkpoint", "no/checkpoint.pt"),
    "doctor": ("-m", "regnet.doctor", "--config", "no/config.yaml"),
    "step": ("-m", "benchmarks.step", "--config", "no/config.yaml"),
    "loader": ("-m", "benchmarks.loader", "--config", "no/config.yaml"),
    "checkpoint": ("-m", "benchmarks.checkpoint", "--config", "no/config.yaml"),
    "probe": ("-m", "benchmarks.probe", "--config", "no/config.yaml"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_rank_exits_without_clean_up(tmp_path, command):
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = run([*PYTHON, *command], **rank, **failing_clean_up(tmp_path))
    assert done.returncode == 2, done.stderr


def test_the_clean_up_of_other_commands_fails(tmp_path):
    assert run([*PYTHON, "-c", ""], RANK="0", **failing_clean_up(tmp_path)).returncode == 86
