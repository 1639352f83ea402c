"""Images of different sizes and formats: JPEG shards, random-resized crops, and the commands for trained networks."""

import json

import pytest
from fork_server import ForkedCommand
from images import photo_folders
from processes import PYTHON, run, trainer
from run_directory import result, rows

from data.manifest import read_manifest
from regnet.config.parser import parse_config


def convert(root, out, *options):
    command = ["-m", "data.convert", "--source", "folder", "--root", str(root), "--out", str(out), "--shards", "2"]
    return run(ForkedCommand([*command, *options]))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_folders(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "photos"
    done = convert(photos, out, "--mode", "jpg", "--longest-side", "200")
    assert done.returncode == 0, done.stderr
    return out


SMALL = ("--model.depth", "4", "--data.resolution", "128", "--data.workers", "1", "--train.precision", "fp32")
SHORT = ("--train.batch_size", "16", "--train.epochs", "6", "--schedule.warmup_epochs", "1", "--optim.lr", "0.05")


def train_on_folder(run_dir, shards, *flags, processes=0):
    """Trains with configs/folder.yaml, reduced to the size of a test."""
    config = ("--config", "configs/folder.yaml", "--data.shards", str(shards), "--schedule.start_lr", "0.01")
    return run(trainer(run_dir, shards, *config, *SMALL, *SHORT, *flags, processes=processes))


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = train_on_folder(folder, shards, processes=2)
    assert done.returncode == 0, done.stderr
    return folder / "folder"


@pytest.mark.thorough
def test_a_network_learns_from_images_of_different_sizes_at_128_pixels(trained):
    assert result(trained)["top1"] > 0.6, "chance is 0.25"
    losses = [row["train_loss"] for row in rows(trained, "epoch")]
    assert losses[-1] < losses[0]
    assert result(trained)["samples"] == 32


def test_predictions_of_the_files_agree_with_the_evaluation(trained, shards, photos):
    """They would be bit-identical for images that were neither shrunk nor compressed again."""
    best = str(trained / "checkpoints" / "best.pt")
    done = run(ForkedCommand(["-m", "regnet.predict", "--checkpoint", best, "--json", str(photos / "val")]))
    assert done.returncode == 0, done.stderr
    predictions = json.loads(done.stdout)
    correct = sum(prediction["classes"][0] == prediction["image"].split("/")[-2] for prediction in predictions)
    evaluated = run(ForkedCommand(["-m", "regnet.evaluate", "--checkpoint", best]))
    assert evaluated.returncode == 0, evaluated.stderr
    assert len(predictions) == 32
    assert abs(correct / 32 - result(trained)["best_top1"]) <= 2 / 32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.cache", "device"), "data.cache device keeps whole images"),
        (("--data.center_crop_ratio", "0"), "data.center_crop_ratio"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_options_that_exclude_mixed_sizes_are_one_line_errors(shards, tmp_path, flags, message):
    done = train_on_folder(tmp_path, shards, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_shapes_cannot_be_both_kept_and_made_square(photos, tmp_path):
    for options in (("--resize",), ("--resolution", "32")):
        done = convert(photos, tmp_path / "out", "--longest-side", "200", *options)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_same_images_in_other_shards_are_the_same_dataset(photos, shards, tmp_path):
    done = convert(photos, tmp_path / "other", "--mode", "jpg", "--longest-side", "200", "--shards", "3")
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "other").identity == read_manifest(shards).identity


@pytest.mark.thorough
def test_a_run_that_crops_nothing_is_adapted_to_images_of_different_sizes(shards, tmp_path):
    """It resumes with the same options."""
    flags = ("--train.batch_size", "16", "--train.epochs", "2")
    first = run(trainer(tmp_path, shards, *flags, "--train.max_minutes", "0.0001"))
    assert first.returncode == 75, first.stderr
    assert "augment.rrc_min_scale set to 0.25: this dataset stores images in their own shapes" in first.stdout
    second = run(trainer(tmp_path, shards, *flags))
    assert second.returncode == 0, second.stderr
    saved = parse_config(["--config", str(tmp_path / "tiny" / "config.yaml")])
    assert (saved.augment.rrc_min_scale, saved.augment.crop_padding) == (0.25, 0)


def test_the_preset_for_folders_runs_on_fewer_threads_with_fewer_images_in_fewer_epochs(shards, tmp_path):
    """configs/folder.yaml asks for 8 workers, batches of 512 images and 5 epochs of warm-up."""
    flags = ("--config", "configs/folder.yaml", "--data.shards", str(shards), "--train.epochs", "2")
    flags += ("--model.depth", "4", "--data.resolution", "64")
    done = run(trainer(tmp_path, shards, *flags, launcher=PYTHON), NUMBA_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert "schedule.warmup_epochs reduced from 5 to 1: train.epochs is 2\n" in done.stdout
    assert "data.workers reduced from 8 to 2: this process may use 2 threads\n" in done.stdout
    saved = parse_config(["--config", str(tmp_path / "folder" / "config.yaml")])
    assert "train.batch_size reduced from 512 to 96: there are 96 training images\n" in done.stdout
    # The asked number of workers is stored: the run may be resumed on a node with more threads.
    assert (saved.data.workers, saved.schedule.warmup_epochs, saved.train.batch_size) == (8, 1, 96)
    assert result(tmp_path / "folder")["samples"] == 32
    best = str(tmp_path / "folder" / "checkpoints" / "best.pt")
    done = run([*PYTHON, "-m", "regnet.evaluate", "--checkpoint", best], NUMBA_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


def test_the_doctor_judges_the_adapted_configuration(shards, tmp_path):
    command = ["-m", "regnet.doctor", "--config", "tests/tiny.yaml", "--data.shards", str(shards)]
    flags = ("--train.batch_size", "16", "--data.workers", "1000", "--runs_dir", str(tmp_path), "--json")
    done = run(ForkedCommand([*command, *flags]))
    (found,) = [found for found in json.loads(done.stdout)["findings"] if found["check"] == "shards"]
    assert found["severity"] == "ok", found
    done = run(ForkedCommand([*command, *flags, "--data.cache", "device"]))
    assert done.returncode == 2
    assert "data.cache device keeps whole images" in done.stderr


@pytest.mark.thorough
def test_a_network_for_whole_images_refuses_shards_of_mixed_sizes(shards, trained, tmp_path):
    """It was trained on squares; the other shards have the same classes."""
    root = photo_folders(tmp_path / "square", train=4, val=2)
    done = convert(root, tmp_path / "squares", "--resize", "--resolution", "32")
    assert done.returncode == 0, done.stderr
    done = run(trainer(tmp_path, tmp_path / "squares", "--train.batch_size", "8"))
    assert done.returncode == 0, done.stderr
    best = str(tmp_path / "tiny" / "checkpoints" / "best.pt")
    for command in (["predict", str(root / "val")], ["export", "--normalize", "--onnx", str(tmp_path / "out.onnx")]):
        done = run(
            ForkedCommand(["-m", f"regnet.{command[0]}", "--checkpoint", best, "--shards", str(shards), *command[1:]])
        )
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert "keep their own shapes" in done.stderr
