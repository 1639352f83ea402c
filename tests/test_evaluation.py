"""Every validation sample is counted exactly once, on any number of processes."""

import shutil

import pytest
from fork_server import ForkedCommand
from images import class_folders
from processes import run, trainer
from run_directory import result

from regnet.metrics.evaluation_file import read_evaluation_file

CLASSES = tuple(f"class_{letter}" for letter in "abcdefghijk")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A one-epoch run with 55 validation images, which do not divide evenly among 2, 3, 4 or 7 processes."""
    folder = tmp_path_factory.mktemp("evaluation")
    source = class_folders(folder / "images", classes=CLASSES, train=6, val=5)
    options = ("--source", "folder", "--root", str(source), "--out", str(folder / "shards"), "--shards", "2")
    assert run(ForkedCommand(["-m", "data.convert", *options])).returncode == 0
    done = run(trainer(folder, folder / "shards", *FLAGS))
    assert done.returncode == 0, done.stderr
    return folder


FLAGS = ("--train.epochs", "1", "--train.batch_size", "22", "--schedule.name", "baseline")


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_counts_do_not_depend_on_the_number_of_processes(trained, tmp_path, processes):
    """Only the final evaluation is missing from the run, so that it is all that is repeated here."""
    shutil.copytree(trained / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / "state.json").unlink()
    (tmp_path / "tiny" / "result.json").unlink()
    done = run(trainer(tmp_path, trained / "shards", *FLAGS, processes=processes))
    assert done.returncode == 0, done.stderr
    expected, found = result(trained / "tiny"), result(tmp_path / "tiny")
    assert found["weights_sha256"] == expected["weights_sha256"]
    assert (found["samples"], set(found["class_samples"].values())) == (55, {5})
    evaluation = read_evaluation_file(trained / "tiny" / "evaluation.npz")
    for counted in ("top1", "top5", "class_accuracy"):
        assert found[counted] == expected[counted]
    assert (read_evaluation_file(tmp_path / "tiny" / "evaluation.npz").confusion == evaluation.confusion).all()
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6), "averaged over samples, not batches or ranks"
