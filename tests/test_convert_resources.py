"""Conversions on nodes that are short of memory or processes: a good image never counts as a bad one."""

import pytest
from converting import assert_rejected, convert, faulty_convert
from images import class_folders
from processes import run

OPTIONS = ("--shards", 1, "--workers", 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("skip_bad", [(), ("--skip-bad",)])
def test_an_image_that_does_not_fit_into_memory_is_not_a_bad_image(images, tmp_path, skip_bad):
    options = ("--root", images, "--out", tmp_path / "out", *OPTIONS, *skip_bad)
    done = run(faulty_convert("out_of_memory:3", *options))
    assert_rejected(done, images / "train" / "ant" / "2.png", "out of memory", "fewer --workers", exit_code=1)
    assert not (tmp_path / "out").exists()


def test_a_good_image_after_a_bad_one_does_not_count_as_bad_either(tmp_path):
    root = class_folders(tmp_path / "images")
    (root / "train" / "ant" / "1.png").write_text("no image")
    done = run(faulty_convert("out_of_memory:3", "--root", root, "--out", tmp_path / "out", *OPTIONS, "--skip-bad"))
    assert_rejected(done, root / "train" / "ant" / "3.png", "out of memory", exit_code=1)


def test_a_writer_that_is_short_of_memory_says_so(images, tmp_path):
    done = run(faulty_convert("out_of_memory_outside_images:3", "--root", images, "--out", tmp_path / "out", *OPTIONS))
    assert_rejected(done, "failed: train-00000-of-00001.beton: out of memory; use fewer --workers", exit_code=1)


def test_a_limit_of_processes_is_reported_with_the_remedy(images, tmp_path):
    done = run(faulty_convert("too_many_processes", "--root", images, "--out", tmp_path / "out", *OPTIONS))
    assert_rejected(done, "cannot start a writer process", "fewer --workers", "ulimit -u", exit_code=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--per-class", 3), "--per-class is for --source synthetic, not for folder"),
        (("--source", "folder", "--download"), "--download is for --source cifar100, not for folder"),
        (("--source", "synthetic"), "--source synthetic generates its images: omit --root"),
        (("--quality", 80), "--quality is for JPEG, but these images are stored as raw bytes: add --mode jpg"),
        (("--quality", 80, "--mode", "raw"), "--quality is for JPEG, not for --mode raw: omit one of them"),
    ],
)
def test_options_that_would_have_no_effect_are_rejected(images, tmp_path, options, message):
    assert_rejected(convert("--root", images, "--out", tmp_path / "out", *options), message)
