"""Folders of images, one folder per class."""

from pathlib import Path

from PIL import Image

from data.errors import DataError
from data.sources.source import Source

LAYOUTS = "one folder of images per class, or train/ and val/ (or test/) with one folder per class each"


def has_splits(root: Path) -> bool:
    """Whether the class folders are in a folder train/."""
    return (root / "train").is_dir()


def open_class_folders(root: Path) -> tuple[Source, bool]:
    """The images of a folder, and whether it has a validation split: val/, else test/.

    Without one, the source's validation images are its training images, to be split with `hold_out`.

    Raises:
        DataError: the folder is not laid out as `LAYOUTS` says.
    """
    from data.sources.torchvision_datasets import ImageFolder

    if not root.is_dir():
        raise DataError(f"{root}: no such directory")
    split_folder = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if has_splits(root):
        train_folder = root / "train"
    elif split_folder is not None:
        raise DataError(f"{root} has {split_folder.name}/, but no train/: it must contain {LAYOUTS}")
    else:
        train_folder = root
    try:
        train = ImageFolder(str(train_folder), loader=_open_image)
        val = train if split_folder is None else ImageFolder(str(split_folder), loader=_open_image)
    except FileNotFoundError as error:  # no class folder, or an empty one
        raise DataError(f"{root}: {error}. It must contain {LAYOUTS}") from error
    if len(train.classes) < 2:
        raise DataError(
            f"{train_folder} has only one class folder, {train.classes[0]}: it must contain one folder per class, and "
            "at least two"
        )
    if split_folder is not None and train.classes != val.classes:
        different = sorted(set(train.classes) ^ set(val.classes))
        raise DataError(
            f"{root}: train/ and {split_folder.name}/ have different classes: {', '.join(different[:5])}; "
            "both need a folder for every class"
        )
    files = {"train": train.samples, "val": val.samples}
    return (
        Source(
            train,
            val,
            lambda split, index: files[split][index][0],
            lambda split, index: Path(files[split][index][0]),
        ),
        split_folder is not None,
    )


def _open_image(path: str) -> Image.Image:
    """Opens an image without decoding it; torchvision's own loader converts every image to RGB silently."""
    return Image.open(path)
