"""Folders of images, one folder per class."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data.errors import DataError
from data.image_files import describe_ignored, image_files_in, list_folder
from data.image_reading import open_image
from data.sources.source import Source

LAYOUTS = "one folder of images per class, or train/ and val/ (or test/) with one folder per class each"
_TRAIN_NAMES = ("train", "training")
_VALIDATION_NAMES = ("val", "valid", "validation", "test", "testing")  # the first of them that exists is used
_MOST_NAMES = 5  # in a message
_DATASETS = "converted datasets"
_NOT_IN_NAMES = ("Cc", "Zl", "Zp", "Cs")  # Unicode categories: control, line breaks, bytes that are not UTF-8
_NO_VALIDATION = "use --hold-out 0.1 to validate on training images instead"


class ClassFolders:
    """The images of one split, by class and path."""

    def __init__(self, files: dict[str, list[str]]) -> None:
        self.classes = list(files)
        self.files = [file for paths in files.values() for file in paths]
        self.targets = [label for label, paths in enumerate(files.values()) for _ in paths]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image is opened, but not decoded."""
        return open_image(self.files[index]), self.targets[index]


def has_splits(root: Path) -> bool:
    """Whether the class folders are in a folder train/."""
    return root.is_dir() and _split_folders(root)[0] != root


def open_class_folders(root: Path, with_validation: bool = True) -> tuple[Source, bool, list[str]]:
    """The images of a folder, whether it has a validation split, and notes about what was ignored.

    Without a validation split, the source's validation images are its training images, to be split with `hold_out`.

    Args:
        with_validation: whether to use the validation split, if there is one.

    Raises:
        DataError: the folder is not laid out as `LAYOUTS` says.
    """
    _check_directory(root)
    train_folder, val_folder = _split_folders(root)
    if not with_validation:
        val_folder = None
    ignored, notes = Counter[str](), []
    if train_folder != root:
        notes += _unused(root, [train_folder, val_folder], ignored)
    train = _read_split(train_folder, ignored, f"; {root} must contain {LAYOUTS}")
    if len(train.classes) < 2:
        raise DataError(
            f"{train_folder} has only one class folder, {train.classes[0]}: it must contain one folder per class, and "
            f"at least two{_nested_root(train_folder)}"
        )
    val = train
    if val_folder is not None:
        val = _read_split(val_folder, ignored, f", or {_NO_VALIDATION}")
        _check_same_classes(root, {train_folder.name: train.classes, val_folder.name: val.classes})
    notes += [f"{root}: {line}" for line in describe_ignored(ignored)]
    files = {"train": train.files, "val": val.files}
    source = Source(
        train, val, lambda split, index: files[split][index], lambda split, index: Path(files[split][index])
    )
    return source, val_folder is not None, notes


def _check_directory(root: Path) -> None:
    try:
        is_directory = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError as error:
        raise DataError(f"{root}: no such directory") from error
    except OSError as error:
        raise DataError(f"{root}: {error.strerror}") from error
    if not is_directory:
        raise DataError(f"{root}: not a directory; an archive of images has to be unpacked first")


def _nested_root(folder: Path) -> str:
    """A hint at the only folder in `folder` if the classes are in there, as in archives that were unpacked."""
    _, (only,) = _images_and_classes(folder, Counter())
    return f" (did you mean --root {only}?)" if list_folder(only, Counter())[1] else ""


def _split_folders(root: Path) -> tuple[Path, Path | None]:
    """The folder of the training classes, which is `root` if there is no train/, and that of the validation classes."""
    train, val = (_first_named(root, names) for names in (_TRAIN_NAMES, _VALIDATION_NAMES))
    if train is not None and (val is not None or not _is_class(train)):
        return train, val
    if train is None and val is not None and not _is_class(val):
        raise DataError(f"{root} has {val.name}/, but no train/: it must contain {LAYOUTS}")
    return root, None


def _first_named(root: Path, names: Sequence[str]) -> Path | None:
    """The folder in `root` with the first of these names that exists, in upper or lower case."""
    folders = {folder.name.lower(): folder for folder in list_folder(root, Counter())[1]}
    return next((folders[name] for name in names if name in folders), None)


def _is_class(folder: Path) -> bool:
    """Whether a folder that is named like a split is a class: images and no folders."""
    files, folders = list_folder(folder, Counter())
    return bool(files) and not folders


def _unused(root: Path, used: Sequence[Path | None], ignored: Counter[str]) -> list[str]:
    """A note about folders next to the splits; files there count as ignored."""
    files, folders = list_folder(root, ignored)
    ignored.update(os.path.splitext(file)[1].lower() for file in files)
    unused = [f"{folder.name}/" for folder in folders if folder not in used]
    return [f"{root}: not used: {_some(unused)}"] if unused else []


def _read_split(folder: Path, ignored: Counter[str], cure: str) -> ClassFolders:
    images, folders = _images_and_classes(folder, ignored)
    if images:
        raise DataError(
            f"{folder} has {len(images)} image{'s' if len(images) > 1 else ''} outside class folders, such as "
            f"{Path(images[0]).name}: move each into the folder of its class{cure}"
        )
    if not folders:
        raise DataError(f"{folder} has no class folders: add one folder per class{cure}")
    classes: dict[str, Path] = {}
    for path in folders:
        name = _class_name(path)
        if name in classes:
            raise DataError(f"{folder} has two folders {name}, which differ in Unicode normalisation only: merge them")
        classes[name] = path
    files, empty, ignored_there = dict[str, list[str]](), list[str](), Counter[str]()
    for name in sorted(classes):
        ignored_here = Counter[str]()
        files[name] = image_files_in(classes[name], ignored_here)
        ignored += ignored_here
        if not files[name]:
            empty.append(name)
            ignored_there += ignored_here
    if empty:
        found = ", ".join([f"no images in {_some(empty)}", *describe_ignored(ignored_there)])
        raise DataError(f"{folder}: {found}: remove these folders, or add images{cure}")
    return ClassFolders(files)


def _images_and_classes(folder: Path, ignored: Counter[str]) -> tuple[list[str], list[Path]]:
    """The image files and the class folders in a folder.

    The --out of a conversion, also of one that is running or was killed, may be among them, and is no class.
    """
    images, folders = list_folder(folder, ignored)
    datasets = [path for path in folders if _is_output(path) and not image_files_in(path, Counter())]
    if datasets:
        ignored[_DATASETS] += len(datasets)
    return images, [path for path in folders if path not in datasets]


def _is_output(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in ("*.beton", ".conversion*"))


def _class_name(folder: Path) -> str:
    """The folder's name in Unicode normalisation form C: macOS and other systems write "é" differently."""
    name = folder.name
    if any(unicodedata.category(character) in _NOT_IN_NAMES for character in name):
        raise DataError(
            f"{folder.parent}: the name of the class folder {os.fsencode(name)!r} is not UTF-8 text or has control "
            "characters or line breaks: rename it"
        )
    return unicodedata.normalize("NFC", name)


def _check_same_classes(root: Path, splits: dict[str, list[str]]) -> None:
    missing = {
        split: sorted({name for names in splits.values() for name in names} - set(classes))
        for split, classes in splits.items()
    }
    lacking = [f"{split}/ lacks {_some(names)}" for split, names in missing.items() if names]
    if lacking:
        raise DataError(
            f"{root}: {'/ and '.join(splits)}/ need a folder for every class, but {', '.join(lacking)}; add these "
            f"folders, or {_NO_VALIDATION}"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
