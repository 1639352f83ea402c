"""A run that cannot be continued, with other options or of another version, is rejected with every remedy."""

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from fork_server import ForkedCommand
from processes import TINY, run, trainer
from run_attempts import WRITTEN, start_attempt, write_files
from run_directory import state

from regnet.checkpoint.file import pack
from regnet.config.schema import to_plain_types
from regnet.errors import UsageError
from regnet.runs.status import FORMAT


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    return partial(start_attempt, monkeypatch, tmp_path)


def write_run_of_format_1(run_dir):
    """A run as versions before format 2 wrote it."""
    (run_dir / "checkpoints").mkdir(parents=True)
    record = {"state": "finished", "epoch": 1, "step": 11, "began": 0, "attempt": 1, "fruitless": 0, "epochs": 1}
    record |= {"data": "0123456789abcdef", "reason": "1 epochs done", "wandb_id": "01234567", "launch": ""}
    (run_dir / "state.json").write_text(json.dumps(record))
    (run_dir / "config.yaml").write_text("name: tiny\nmodel:\n  form: paper\n  slope: 8\n")
    (run_dir / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 1, "val_accuracy": 0.5}\n')
    (run_dir / "events.jsonl").write_text('{"at": "2026-01-01T00:00:00+00:00", "what": "began"}\n')
    np.savez(run_dir / "evaluation.npz", taken=np.zeros(1))
    (run_dir / "checkpoints" / "step-000000011.pt").write_bytes(pack({"model": {}}))


def test_a_run_of_an_older_version_is_rejected_in_one_line_by_every_command(shards, tmp_path):
    write_run_of_format_1(tmp_path / "tiny")
    before = {path: path.read_bytes() for path in (tmp_path / "tiny").rglob("*") if path.is_file()}
    line = f"{tmp_path}/tiny was written by an older version of this program (format 1; this version reads {FORMAT})"
    done = run(trainer(tmp_path, shards))
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [f"error: {line}. Use another --name, or --overwrite to start over"],
    )
    done = run(ForkedCommand(["-m", "regnet.report", str(tmp_path / "tiny")]))
    assert (done.returncode, done.stderr.splitlines()) == (2, [f"error: {line}"])
    done = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]))
    assert (done.returncode, done.stderr.splitlines()) == (0, [f"skipped: {line}"])
    flags = ["--config", str(TINY), "--runs_dir", str(tmp_path)]
    done = run(ForkedCommand(["-m", "regnet.relaunch", "--launch", "", "--", *flags]))
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1), done.stderr
    assert {path: path.read_bytes() for path in before} == before
    done = run(trainer(tmp_path, shards, "--overwrite"))
    assert done.returncode == 0, done.stderr
    assert state(tmp_path / "tiny")["format"] == FORMAT


def test_a_run_of_a_newer_version_is_rejected(tmp_path, attempt):
    attempt()
    path = tmp_path / "tiny" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    with pytest.raises(UsageError, match=rf"a newer version of this program \(format {FORMAT + 1}; this version reads"):
        attempt()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--resume", "never"),
            "already contains a run. Use another --name, --overwrite to delete it and start over, ",
        ),
        (
            ("--distill.teacher", "some.pt", "--augment.flip", "false"),
            "was created with a different configuration: augment.flip was true, now false; "
            "distill.teacher was '', now some.pt. Use another --name, or --overwrite to start over",
        ),
        (
            ("--train.epochs", "5"),
            "was created with a different number of epochs: train.epochs was 2, now 5, and the learning rates of "
            "schedule.name cosine depend on it. Use another --name, or --overwrite to start over",
        ),
    ],
)
def test_messages_name_what_is_different_and_every_remedy(tmp_path, attempt, flags, words):
    attempt()
    write_files(tmp_path / "tiny", WRITTEN[:1])
    with pytest.raises(UsageError) as rejected:
        attempt(*flags)
    assert str(rejected.value).startswith(f"{tmp_path}/tiny {words}")


def test_a_longer_schedule_can_start_from_the_best_weights(tmp_path, attempt):
    attempt()
    write_files(tmp_path / "tiny", ["checkpoints/best.pt"])
    best = tmp_path / "tiny" / "checkpoints" / "best.pt"
    with pytest.raises(
        UsageError, match=f"Use another --name with --model.weights {best} to continue from its weights, or"
    ):
        attempt("--train.epochs", "5")


def test_a_changed_number_of_epochs_is_named_although_the_warmup_was_adapted_to_it(tmp_path, attempt):
    attempt("--schedule.warmup_epochs", "5", "--train.epochs", "3")
    write_files(tmp_path / "tiny", WRITTEN[:1])
    with pytest.raises(UsageError, match=r"train\.epochs was 3, now 10"):
        attempt("--schedule.warmup_epochs", "5", "--train.epochs", "10")


def test_a_damaged_configuration_protects_the_checkpoints(tmp_path, attempt):
    attempt()
    write_files(tmp_path / "tiny", ["config.yaml", *WRITTEN[:1]])
    with pytest.raises(UsageError) as rejected:
        attempt()
    config = tmp_path / "tiny" / "config.yaml"
    remedy = "Use another --name, or --overwrite to start over"
    assert str(rejected.value) == f"{config}: not a configuration: a mapping of options is required. {remedy}"


def test_without_a_checkpoint_a_damaged_configuration_is_replaced(tmp_path, attempt, capsys):
    first = attempt()
    write_files(tmp_path / "tiny", ["config.yaml"])
    assert attempt().wandb_id != first.wandb_id
    assert capsys.readouterr().out == (
        f"{tmp_path}/tiny has no checkpoint: it starts again with other options: the earlier ones cannot be read "
        f"({tmp_path}/tiny/config.yaml: not a configuration: a mapping of options is required)\n"
    )
    assert attempt().attempt == 3


def test_an_option_that_a_copied_checkpoint_lacks_is_named(attempt):
    directory = attempt()
    config = to_plain_types(asdict(directory.config))
    del config["optim"]["clip_norm"]
    with pytest.raises(UsageError, match=r"configuration: optim\.clip_norm was not set, now 0\.0\. Use another"):
        directory.check_checkpoint({"config": config, "data": "images"})
