"""The official CIFAR-100 files: a folder, the folder that contains it, or the archive."""

import tarfile
import tempfile
from pathlib import Path

from data.errors import DataError
from data.sources.source import Source

ARCHIVE_FOLDER = "cifar-100-python"  # the folder in the official archive
_ALTERNATIVES = (
    "Either download it (--download, or `make train` with network access), or name an existing copy with --root or "
    "make CIFAR100=...: the folder cifar-100-python, its .tar.gz, or class folders in train/ and test/"
)


def open_cifar100(root: Path, download: bool) -> Source:
    """Reads all images into memory.

    Args:
        root: the folder `cifar-100-python`, the folder that contains it, or its tar.gz.
        download: download the archive into `root` if it is not there.

    Raises:
        DataError: the files are missing or damaged, or cannot be downloaded.
    """
    if not root.is_file():
        return _load(root.parent if root.name == ARCHIVE_FOLDER else root, download)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(root) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{root}: not a readable tar archive ({error}). {_ALTERNATIVES}") from error
        return _load(Path(folder), download=False)


def _load(root: Path, download: bool) -> Source:
    from data.sources.torchvision_datasets import CIFAR100

    try:
        train = CIFAR100(str(root), train=True, download=download)
        val = CIFAR100(str(root), train=False)
    except OSError as error:  # urllib's errors are OSErrors: no network, connection refused, unknown host
        raise DataError(f"CIFAR-100 could not be downloaded into {root} ({error}). {_ALTERNATIVES}") from error
    except RuntimeError as error:  # torchvision raises it if files are missing or their MD5 differs
        raise DataError(f"{root}: contains neither the official CIFAR-100 files nor train/. {_ALTERNATIVES}") from error
    return Source(train, val, "cifar100 {}[{}]".format)
