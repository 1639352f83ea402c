"""What the trainer and the doctor say about options that the dataset or the node does not allow."""

import json
import os
import shutil

import pytest
from fork_server import ForkedCommand
from processes import TINY, faulty_trainer, run, trainer
from run_directory import result, rows

ONE_EPOCH = ("--train.epochs", "1", "--schedule.warmup_epochs", "0")
NO_COMPILER = {"PATH": "/no/such"}


def doctor_findings(shards, runs_dir, *flags, **env):
    options = ["--config", str(TINY), "--runs_dir", str(runs_dir), "--data.shards", str(shards), *flags, "--json"]
    done = run(ForkedCommand(["-m", "regnet.doctor", *options]), **env)
    return done.returncode, json.loads(done.stdout)["findings"]


def test_a_batch_larger_than_the_dataset_is_reduced_to_it(shards, tmp_path):
    """Also with data.drop_last, which would otherwise drop the only batch."""
    done = run(trainer(tmp_path, shards, "--train.batch_size", "5000", "--data.drop_last", "true", *ONE_EPOCH))
    assert done.returncode == 0, done.stderr
    assert "train.batch_size reduced from 5000 to 1000: there are 1000 training images\n" in done.stdout
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == [1]
    assert run(trainer(tmp_path, shards, "--train.batch_size", "5000", "--data.drop_last", "true")).returncode == 2
    assert result(tmp_path / "tiny")["epochs"] == 1


def test_memory_is_planned_for_the_reduced_batch(shards, tmp_path):
    needs = []
    for batch_size in ("1000", "1000000"):
        status, found = doctor_findings(shards, tmp_path, "--train.batch_size", batch_size)
        assert status == 0
        needs += [finding["measured"]["need"] for finding in found if finding["check"] == "memory"]
    assert needs[0] == needs[1]


@pytest.mark.parametrize("drop_last", ["true", "false"])
def test_a_batch_of_one_is_refused_with_the_smallest_that_works(shards, tmp_path, drop_last):
    done = run(trainer(tmp_path, shards, "--train.batch_size", "1", "--data.drop_last", drop_last))
    assert done.returncode == 2
    assert done.stderr == "error: train.batch_size is 1, but BatchNorm needs 2 in a batch: use at least 2\n"


def test_the_doctor_shows_which_options_are_adapted(shards, tmp_path):
    flags = ("--train.batch_size", "2000", "--train.epochs", "3", "--schedule.warmup_epochs", "5")
    status, found = doctor_findings(shards, tmp_path, *flags, "--data.workers", "999")
    notes = [finding["message"].partition(":")[0] for finding in found if finding["check"] == "options"]
    assert status == 0
    assert notes[:2] == [
        "schedule.warmup_epochs reduced from 5 to 1",
        "train.batch_size reduced from 2000 to 1000",
    ]
    assert notes[2].startswith("data.workers reduced from 999 to ")


@pytest.mark.thorough
def test_torch_compile_without_a_compiler_is_one_line(shards, tmp_path):
    done = run(trainer(tmp_path, shards, "--train.compile", "true", *ONE_EPOCH), **NO_COMPILER)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "error: train.compile: torch.compile does not work on this node (" in line
    assert line.endswith("install g++ and the Python headers, or use --train.compile false")


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler")
def test_the_doctor_finds_that_torch_compile_works(shards, tmp_path):
    status, found = doctor_findings(shards, tmp_path, "--train.compile", "true")
    assert status == 0
    assert ("ok", "torch.compile works") in [(finding["severity"], finding["message"]) for finding in found]


@pytest.mark.thorough
def test_the_doctor_tries_torch_compile_if_the_run_uses_it(shards, tmp_path):
    status, found = doctor_findings(shards, tmp_path, "--train.compile", "true", **NO_COMPILER)
    (finding,) = [finding for finding in found if finding["check"] == "compile"]
    assert status == 1
    assert finding["severity"] == "FAIL"
    assert finding["fix"] == "install g++ and the Python headers, or use --train.compile false"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_nan_found_by_anomaly_detection_is_one_line(shards, tmp_path, precision):
    diverging = ("--optim.name", "sgd", "--optim.lr", "1e6", "--schedule.start_lr", "1e6")
    flags = ("--train.detect_anomaly", "true", "--train.precision", precision, *diverging)
    done = run(trainer(tmp_path, shards, *flags))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("failed: a gradient is not finite at step "), done.stderr
    assert "(learning rate 1e+06, train.detect_anomaly): Function 'LogSoftmaxBackward0' returned nan values" in last
    assert "Traceback (most recent call last)" not in done.stderr


def test_an_overflow_in_fp16_found_by_anomaly_detection_names_the_loss_scale(shards, tmp_path):
    flags = ("--train.detect_anomaly", "true", "--train.precision", "fp16")
    done = run(faulty_trainer(tmp_path, shards, "large_loss_scale", *flags))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("failed: a gradient is not finite at step 1 (learning rate "), done.stderr
    cure = "Without train.detect_anomaly, the step is skipped if loss scale 1.15292e+18 is too large for fp16"
    assert line.endswith(cure)
