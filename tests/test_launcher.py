"""Variables of a launcher or of the user that are malformed, missing or impossible end a run with one line."""

import os
import sys

import pytest
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from processes import TINY, run

from commandline.environment import VariableError, check_libraries
from regnet.distributed.launcher import Launch, read_launch

TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
NAMES = tuple(TWO)


def variables_without(name):
    return {other: value for other, value in TWO.items() if other != name}


REFUSED = {
    "an empty WORLD_SIZE": ({"WORLD_SIZE": ""}, "WORLD_SIZE must be an integer of at least 1, got ''"),
    "a word": ({"WORLD_SIZE": "abc"}, "WORLD_SIZE must be an integer of at least 1, got 'abc'"),
    "no process": ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be an integer of at least 1, got '0'"),
    "digits of another alphabet": ({"WORLD_SIZE": "\u0662"}, "got '\u0662'"),
    "no RANK": (variables_without("RANK"), "WORLD_SIZE is 2, but RANK is not set"),
    "no LOCAL_RANK": (variables_without("LOCAL_RANK"), "WORLD_SIZE is 2, but LOCAL_RANK is not set"),
    "an empty address": ({**TWO, "MASTER_ADDR": ""}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
    "only WORLD_SIZE": (
        {"WORLD_SIZE": "2"},
        "WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are not set",
    ),
    "no WORLD_SIZE": (variables_without("WORLD_SIZE"), "RANK is '1', but WORLD_SIZE is not set"),
    "a LOCAL_RANK alone": ({"LOCAL_RANK": "1"}, "LOCAL_RANK is '1', but WORLD_SIZE is not set"),
    "a rank too high": ({**TWO, "RANK": "2"}, "RANK must be an integer from 0 to 1 with WORLD_SIZE 2, got '2'"),
    "a rank of one process": (
        {"WORLD_SIZE": "1", "RANK": "3"},
        "RANK must be an integer from 0 to 0 with WORLD_SIZE 1",
    ),
    "a local rank too high": ({**TWO, "LOCAL_RANK": "2"}, "LOCAL_RANK must be an integer from 0 to 1 with"),
    "a negative rank": ({**TWO, "RANK": "-1"}, "got '-1'"),
    "a port that is none": ({**TWO, "MASTER_PORT": "x"}, "MASTER_PORT must be an integer from 1 to 65535, got 'x'"),
    "a port too high": ({**TWO, "MASTER_PORT": "65536"}, "MASTER_PORT must be an integer from 1 to 65535"),
    "srun without ranks": ({"SLURM_STEP_NUM_TASKS": "2"}, "srun has started several processes"),
    "mpirun without ranks": ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun has started several processes"),
    "MVAPICH without ranks": ({"MV2_COMM_WORLD_SIZE": "2"}, "mpirun has started several processes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_variables_that_describe_no_launch_are_refused(case):
    env, message = REFUSED[case]
    with pytest.raises(VariableError) as raised:
        read_launch(env)
    assert message in str(raised.value)
    assert "torchrun" in raised.value.cure


def test_complete_variables_are_read():
    assert read_launch(TWO) == Launch(2, 1, 0, "10.0.0.1", 29500)
    single = Launch()
    assert read_launch({}) == read_launch({"WORLD_SIZE": "1"}) == single
    assert read_launch({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "x"}) == single
    assert read_launch({"MASTER_ADDR": "a", "MASTER_PORT": "b"}) == single, "a single process does not need them"
    assert read_launch({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}) == single
    assert read_launch({"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "1"}) == single, "every task trains its own run"
    assert read_launch({**TWO, "SLURM_STEP_NUM_TASKS": "2"}).rank == 1


values = st.one_of(st.integers(-2, 4).map(str), st.text(max_size=6), st.text("0123456789", max_size=5000))


@given(st.dictionaries(st.sampled_from((*NAMES, "SLURM_STEP_NUM_TASKS")), values))
def test_any_environment_is_read_or_refused(env):
    try:
        launch = read_launch(env)
    except VariableError:
        return
    assert 0 <= launch.rank < launch.size
    assert 0 <= launch.local_rank < launch.size
    assert launch.size == int(env.get("WORLD_SIZE", "1"))


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_numbers_of_threads_that_would_be_ignored_are_refused(name):
    lists = () if name == "OMP_NUM_THREADS" else ("4,2", "1 2")
    for value in ("abc", "0", "00", "", "-1", "1.5", "2,", "4294967297", *lists):
        with pytest.raises(VariableError, match=f"^{name} must be a positive integer, got '{value}'"):
            check_libraries({name: value})
    for value in ("1", " 2 ", "010"):
        check_libraries({name: value})
    check_libraries({"OMP_NUM_THREADS": "4, 2", "NUMBA_DISABLE_JIT": "0"})
    check_libraries({})


@pytest.mark.parametrize("command", ["train_ddp.py", "-mregnet.evaluate", "-mregnet.doctor", "-mdata.convert"])
def test_variables_at_which_numba_would_fail_end_every_command_with_one_line(command):
    """Before Numba is imported, which would be a traceback."""
    for env, problem in (
        ({"NUMBA_NUM_THREADS": "0"}, "NUMBA_NUM_THREADS must be a positive integer, got '0'"),
        ({"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT is '1', but FFCV needs Numba's compiler"),
    ):
        ended = run([sys.executable, command], **env)
        assert ended.returncode != 0
        assert problem in ended.stdout + ended.stderr
        assert len((ended.stdout + ended.stderr).splitlines()) <= 2


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"WORLD_SIZE": ""}, "error: WORLD_SIZE must be an integer of at least 1, got ''"),
        ({"OMP_NUM_THREADS": "0"}, "error: OMP_NUM_THREADS must be a positive integer, got '0'"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "error: srun has started several processes (SLURM_STEP_NUM_TASKS is '2')"),
        ({"CUDA_VISIBLE_DEVICES": "77"}, f"error: no GPU found on {os.uname().nodename} with CUDA_VISIBLE_DEVICES=77"),
    ],
)
def test_a_run_ends_with_one_line_before_it_touches_the_run_directory(tmp_path, env, message):
    command = ForkedCommand(
        ["train_ddp.py", "--config", str(TINY), "--runs_dir", str(tmp_path), "--train.device", "auto"]
    )
    finished = run(command, **env)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(message)
    assert len(finished.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
