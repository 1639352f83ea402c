"""The sources of images: CIFAR-100, folders of one's own images, and a generated dataset."""

from enum import StrEnum
from pathlib import Path

from data.errors import DataError
from data.sources.cifar100 import is_cifar100, open_cifar100
from data.sources.class_folders import has_splits, open_class_folders
from data.sources.hold_out import hold_out
from data.sources.source import Source
from data.sources.synthetic import SyntheticImages

DEFAULT_FRACTION = 0.1  # of the training images, which become the validation split of a folder without one


class Kind(StrEnum):
    cifar100 = "cifar100"
    folder = "folder"
    synthetic = "synthetic"


def kind_of(root: Path | None) -> Kind:
    """The kind of source that a directory or archive is: CIFAR-100's own files, otherwise a folder of images.

    Raises:
        DataError: it is neither.
    """
    if root is None:
        raise DataError("--root is missing: the directory of the images (or use --source synthetic)")
    try:
        if is_cifar100(root):
            return Kind.cifar100
        if root.is_file():
            raise DataError(
                f"{root}: neither a folder of images nor CIFAR-100's archive; other archives have to be unpacked first"
            )
    except OSError as error:  # permission denied, name too long
        raise DataError(f"{root}: {error.strerror}") from error
    return Kind.folder


def open_source(
    kind: Kind,
    root: Path | None,
    download: bool = False,
    per_class: int = 0,
    validation: int | float | None = None,
) -> tuple[Source, list[str]]:
    """Opens a source.

    Args:
        root: cifar100: the official folder `cifar-100-python`, the folder that contains it, its tar.gz, or class
            folders in train/ and test/; folder: see `class_folders`; synthetic: not used.
        download: cifar100: download the official archive into `root` if it is not there.
        per_class: synthetic: training images per class; validation gets a fifth as many.
        validation: number or fraction of training images that become the validation split, see `hold_out`; None for
            the source's own split, or a fraction of 0.1 if a folder has none.

    Returns:
        the source, and notes about what was chosen.

    Raises:
        DataError: no usable images; the message says what was expected.
    """
    notes: list[str] = []
    if kind is Kind.synthetic:
        val = max(1, per_class // 5)
        source = Source(SyntheticImages("train", per_class), SyntheticImages("val", val), "{}[{}]".format)
    elif root is None:
        raise DataError(f"--source {kind} needs --root")
    elif kind is Kind.cifar100 and not has_splits(root):
        source = open_cifar100(root, download)
    else:
        source, has_validation, notes = open_class_folders(root, with_validation=validation is None)
        if not has_validation and validation is None:
            images = len(source.train)
            source = hold_out(source, DEFAULT_FRACTION)
            notes.append(
                f"{root} has no val/ or test/: {len(source.val)} of {images} images, {DEFAULT_FRACTION:.0%} (at least "
                "one) of every class, are the validation split (--hold-out changes this)"
            )
            notes += _without_validation(source)
    if validation is not None:
        source = hold_out(source, validation)
        notes += _without_validation(source)
    return source, notes


def _without_validation(source: Source) -> list[str]:
    """A note about classes of which no image is in the validation split."""
    classes = len(source.classes)
    missing = classes - len(set(source.val.targets))
    return [f"{missing} of {classes} classes have no validation images"] if missing else []
