"""What the doctor says of a run directory is what the trainer does with it."""

import shutil

import pytest
from doctor_command import doctor_command, failed_checks, printed_findings
from images import convert_synthetic
from processes import faulty_trainer, run, trainer

SHORT = ("--train.max_steps_per_epoch", "2")


def finding(tmp_path, shards, *flags):
    return printed_findings(run(doctor_command(tmp_path, shards, *SHORT, *flags, "--json")))["run"]


def refusal(tmp_path, shards, *flags):
    done = run(trainer(tmp_path, shards, *SHORT, *flags))
    assert done.returncode == 2, done.stdout
    return done.stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert run(trainer(folder, shards, *SHORT)).returncode == 0
    return folder


def test_a_run_without_a_checkpoint_would_start_again(shards, tmp_path):
    assert run(faulty_trainer(tmp_path, shards, "raises:0:1", *SHORT)).returncode == 1
    found = finding(tmp_path, shards)
    assert (found["severity"], found["message"]) == ("ok", f"{tmp_path}/tiny: has no checkpoint, would start again")


def test_an_interrupted_run_would_be_resumed(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *SHORT, "--train.max_minutes", "1e-9")).returncode == 75
    found = finding(tmp_path, shards)
    assert (found["severity"], found["message"]) == ("ok", f"{tmp_path}/tiny: would be resumed")


def test_a_finished_run_is_finished(shards, finished):
    found = finding(finished, shards)
    more = "more train.epochs or early_stopping.patience would resume it"
    assert (found["severity"], found["message"]) == ("ok", f"{finished}/tiny: Finished after 2 epochs; {more}")


def test_a_run_whose_shards_are_missing_is_reported_as_it_was_left(finished, tmp_path):
    found = printed_findings(run(doctor_command(finished, tmp_path / "none", *SHORT, "--json")))
    assert failed_checks(found) == {"shards"}
    assert found["run"]["message"].startswith(f"{finished}/tiny: Finished after 2 epochs; ")


def test_what_the_trainer_refuses_the_doctor_refuses_with_the_same_words(shards, finished, tmp_path):
    shutil.copytree(finished / "tiny", tmp_path / "tiny")
    other = convert_synthetic(tmp_path / "other", 10, 1)
    manifest = (shards / "manifest.json", other / "manifest.json")
    assert manifest[0].read_text() != manifest[1].read_text()
    fewer = convert_synthetic(tmp_path / "fewer", 5, 1)
    for dataset, flags in ((shards, ("--train.epochs", "5")), (shards, ("--optim.lr", "0.5")), (fewer, ())):
        found = finding(tmp_path, dataset, *flags)
        assert (found["severity"], found["message"]) == ("FAIL", refusal(tmp_path, dataset, *flags))
    assert finding(tmp_path, other)["severity"] == "ok", "the same images in another number of shards"
