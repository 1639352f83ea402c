"""Folders of images as people have them: what python -m data.convert reads, ignores or refuses, with a line each."""

import os
import shutil
import unicodedata

import pytest
from converting import assert_rejected, convert
from images import class_folders
from PIL import Image

from data.manifest import read_manifest
from data.sources.registry import Kind, open_source


def assert_converted(done, *words):
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for word in words:
        assert word in done.stdout


def counts(out):
    manifest = read_manifest(out)
    return [manifest.samples(split) for split in ("train", "val")]


def test_every_image_is_read_and_everything_else_is_counted(tmp_path):
    root, out = class_folders(tmp_path / "images"), tmp_path / "out"
    bee = root / "train" / "bee"
    with Image.open(bee / "0.png") as image:
        for name in ("a.jfif", "b.GIF", "c.webp", "d.avif", "e.bmp"):
            image.save(bee / name)
        for folder in (".ipynb_checkpoints", "bee/.thumbnails"):
            (root / "train" / folder).mkdir()
            image.save(root / "train" / folder / "copy.png")
    for name in ("notes.txt", "more.TXT", "bee/labels.txt", "bee/.hidden.png", "bee/README", "bee/raw.heic"):
        (root / "train" / name).write_bytes(b"")
    (root / "readme.txt").write_bytes(b"")
    shutil.copytree(root / "train", root / "extra")
    ignored = "9 files ignored (.txt: 4, hidden: 3, .heic: 1, without ending: 1)\n"
    assert_converted(
        convert("--root", root, "--out", out), f"note: {root}: not used: extra/\n", f"note: {root}: {ignored}"
    )
    assert read_manifest(out).classes == ("ant", "bee", "cat")
    assert counts(out) == [17, 6]


def test_links_are_followed_once(tmp_path):
    root = class_folders(tmp_path / "images")
    shared = tmp_path / "shared"
    shutil.copytree(root / "train" / "cat", shared)
    bee = root / "train" / "bee"
    (bee / "itself").symlink_to(bee)
    (bee / "all").symlink_to(root / "train")
    (bee / "dead").symlink_to(bee / "dead")
    (bee / "shared").symlink_to(shared)
    (root / "train" / "ant" / "shared").symlink_to(shared)
    done = convert("--root", root, "--out", tmp_path / "out")
    assert_converted(done, f"note: {root}: 3 files ignored (folders found again through links: 2, without ending: 1)\n")
    assert counts(tmp_path / "out") == [20, 6]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test", "Test", "testing"])
def test_validation_folders_have_several_names(tmp_path, name):
    root = class_folders(tmp_path / "images")
    (root / "test").rename(root / name)
    source, notes = open_source(Kind.folder, root)
    assert (len(source.train), len(source.val), notes) == (12, 6, [])
    assert source.path("val", 0) == root / name / "ant" / "0.png"


def test_of_several_validation_folders_the_first_is_used_and_the_others_are_named(tmp_path):
    root = class_folders(tmp_path / "images")
    shutil.copytree(root / "train", root / "val")
    source, notes = open_source(Kind.folder, root)
    assert (len(source.val), notes) == (12, [f"{root}: not used: test/"])


def test_with_hold_out_the_validation_folder_is_not_read(tmp_path):
    root = class_folders(tmp_path / "images")
    shutil.rmtree(root / "test" / "bee")
    (root / "test" / "0.png").write_bytes(b"")
    done = convert("--root", root, "--out", tmp_path / "out", "--hold-out", "3")
    assert_converted(done, f"note: {root}: not used: test/\n")
    assert counts(tmp_path / "out") == [9, 3]
    shutil.rmtree(root / "test")
    assert_converted(convert("--root", root, "--out", tmp_path / "train_only", "--hold-out", "3"))
    assert counts(tmp_path / "train_only") == [9, 3]


def test_a_class_may_be_named_like_a_split(tmp_path):
    """CIFAR-100 has a class train; and images may be valid or invalid."""
    for names in (("bus", "train"), ("valid", "invalid"), ("test", "quiz")):
        root = tmp_path / names[0]
        class_folders(tmp_path / "images" / names[0], classes=names)
        shutil.move(tmp_path / "images" / names[0] / "train", root)
        source, _ = open_source(Kind.folder, root)
        assert source.classes == sorted(names)


def test_classes_of_one_side_are_named_with_the_side(tmp_path):
    root = class_folders(tmp_path / "images")
    shutil.rmtree(root / "test" / "bee")
    shutil.rmtree(root / "train" / "cat")
    done = convert("--root", root, "--out", tmp_path / "out")
    assert_rejected(done, "train/ lacks cat, test/ lacks bee; add these folders, or use --hold-out 0.1")


def test_images_outside_class_folders_are_refused_with_the_cure(tmp_path):
    root = class_folders(tmp_path / "images")
    for path in list((root / "test").glob("*/*.png")):
        path.rename(root / "test" / f"{path.parent.name}{path.name}")
    done = convert("--root", root, "--out", tmp_path / "out")
    assert_rejected(done, f"{root}/test has 6 images outside class folders, such as ant0.png: move", "--hold-out 0.1")
    flat = tmp_path / "flat"
    shutil.copytree(root / "train" / "ant", flat)
    assert_rejected(
        convert("--root", flat, "--out", tmp_path / "out"),
        "flat has 4 images outside class folders, such as 0.png: move",
    )
    shutil.rmtree(root / "train")
    shutil.copytree(flat, root / "train")
    assert_rejected(convert("--root", root, "--out", tmp_path / "out"), "train has 4 images outside class folders")


def test_class_names_are_the_same_in_both_unicode_normalisations(tmp_path):
    root = class_folders(tmp_path / "images", classes=("ant", "café"))
    (root / "test" / "café").rename(root / "test" / unicodedata.normalize("NFD", "café"))
    assert_converted(convert("--root", root, "--out", tmp_path / "out"))
    assert read_manifest(tmp_path / "out").classes == ("ant", "café")
    (root / "train" / unicodedata.normalize("NFD", "café")).mkdir()
    assert_rejected(
        convert("--root", root, "--out", tmp_path / "other"),
        "two folders café, which differ in Unicode normalisation only",
    )


@pytest.mark.parametrize("name", [b"caf\xe9", b"new\nline", "line\u2028separator".encode()])
def test_class_names_that_are_no_text_are_refused(tmp_path, name):
    root = class_folders(tmp_path / "images")
    (root / "train" / "ant").rename(root / "train" / os.fsdecode(name))
    assert_rejected(
        convert("--root", root, "--out", tmp_path / "out"), f"the name of the class folder {name!r} is not UTF-8 text"
    )


def test_a_class_without_images_is_refused(tmp_path):
    root = class_folders(tmp_path / "images")
    for path in (root / "test" / "bee").iterdir():
        path.rename(path.with_suffix(".heic"))
    assert_rejected(
        convert("--root", root, "--out", tmp_path / "out"),
        f"{root}/test: no images in bee, 2 files ignored (.heic: 2): remove",
        "--hold-out 0.1",
    )
    for path in (root / "test").iterdir():
        shutil.rmtree(path)
    done = convert("--root", root, "--out", tmp_path / "out")
    assert_rejected(done, f"{root}/test has no class folders: add one folder per class, or use --hold-out 0.1")


def test_folders_of_operating_systems_are_ignored(tmp_path):
    """Synology's thumbnails are images; the other folders are there whatever the user does."""
    root = class_folders(tmp_path / "images")
    for name in ("train/@eaDir", "train/bee/@eaDir", "train/bee/__MACOSX", "test/#recycle"):
        shutil.copytree(root / "test" / "cat", root / name / "0.png")
    for name in ("$RECYCLE.BIN", "System Volume Information", "lost+found"):
        (root / "train" / name).mkdir()
    done = convert("--root", root, "--out", tmp_path / "out")
    assert_converted(done, f"note: {root}: 7 files ignored (system folders: 7)\n")
    assert counts(tmp_path / "out") == [12, 6]


def test_shards_may_be_next_to_the_class_folders(tmp_path):
    class_folders(tmp_path)
    root = tmp_path / "train"
    assert_converted(convert("--root", root, "--out", root / "shards"))
    assert_converted(convert("--root", root, "--out", root / "shards"), "already converted", "have not changed")
    assert_converted(convert("--root", root, "--out", root / "small", "--resolution", "8", "--resize"))
    (root / "running").mkdir()
    (root / "running" / ".conversion.lock").touch()
    ignored = "3 files ignored (converted datasets: 3)"
    assert_converted(convert("--root", root, "--out", root / "shards", "--overwrite"), ignored)
    assert read_manifest(root / "shards").classes == ("ant", "bee", "cat")


def test_the_folder_that_contains_the_class_folders_is_suggested(tmp_path):
    """An archive that is unpacked becomes a folder in a folder."""
    root = class_folders(tmp_path / "data" / "images")
    assert_rejected(
        convert("--root", tmp_path / "data", "--out", tmp_path / "out"),
        f"data has only one class folder, images: it must contain one folder per class, and at least two "
        f"(did you mean --root {root}?)",
    )
    shutil.rmtree(root / "train" / "ant")
    shutil.rmtree(root / "train" / "bee")
    done = convert("--root", root, "--out", tmp_path / "out")
    assert_rejected(done, "train has only one class folder, cat: it must contain one folder per class, and at least")
    assert "did you mean" not in done.stderr


def test_archives_have_to_be_unpacked(tmp_path):
    class_folders(tmp_path / "images")
    archives = [shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "images") for kind in ("zip", "gztar")]
    for archive in archives:
        assert_rejected(convert("--root", archive, "--out", tmp_path / "out"), f"{archive}: ", "to be unpacked first")
    done = convert("--root", archives[0], "--source", "folder", "--out", tmp_path / "out")
    assert_rejected(done, "not a directory; an archive of images has to be unpacked first")


def test_a_root_that_cannot_be_searched_is_named(tmp_path):
    name = "n" * 300
    assert_rejected(convert("--root", name, "--out", tmp_path / "out"), f"error: {name}: File name too long")


def test_files_keep_their_order_by_name_within_their_folder(tmp_path):
    root = class_folders(tmp_path / "images", classes=("ant", "bee"), train=1)
    ant = root / "train" / "ant"
    for name in ("z.png", "a-b/1.png", "a/b/1.png", "a/2.png", "a/10.png"):
        (ant / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ant / "0.png", ant / name)
    source, _ = open_source(Kind.folder, root)
    names = [os.path.relpath(source.name("train", index), ant) for index in range(6)]
    assert names == ["0.png", "z.png", "a/10.png", "a/2.png", "a/b/1.png", "a-b/1.png"]


def test_the_source_is_recognised_from_the_root(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    for root in (tmp_path, tmp_path / "cifar-100-python"):
        assert_rejected(
            convert("--root", root, "--out", tmp_path / "out"), f"{root}: the files in cifar-100-python are incomplete"
        )
    (tmp_path / "labels.csv").write_text("a,b\n")
    assert_rejected(
        convert("--root", tmp_path / "labels.csv", "--out", tmp_path / "out"),
        "neither a folder of images nor CIFAR-100's",
    )
    assert_rejected(
        convert("--root", tmp_path / "none", "--out", tmp_path / "out"), f"{tmp_path}/none: no such directory"
    )
    done = convert("--out", tmp_path / "out")
    assert_rejected(done, "--root is missing", "--source synthetic")


def test_messages_about_cifar100_name_what_was_given(tmp_path):
    """The archive is unpacked into a temporary folder."""
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"not the official file")
    archive = shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "cifar-100-python")
    other = shutil.make_archive(str(tmp_path / "other"), "gztar", tmp_path / "cifar-100-python")
    options = ("--source", "cifar100")
    assert_rejected(
        convert("--root", archive, "--out", tmp_path / "out", *options),
        f"error: {archive}: the files in cifar-100-python",
    )
    assert_rejected(
        convert("--root", other, "--out", tmp_path / "out"),
        f"error: {other}: contains neither the official CIFAR-100 files",
    )
    missing = tmp_path / "missing.tar.gz"
    assert_rejected(
        convert("--root", missing, "--out", tmp_path / "out", *options), f"error: {missing}: no such file or directory"
    )
