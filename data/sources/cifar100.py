"""The official CIFAR-100 files: a folder, the folder that contains it, or the archive."""

import lzma
import tarfile
import tempfile
import zlib
from pathlib import Path

from data.errors import DataError
from data.sources.source import Source

ARCHIVE_FOLDER = "cifar-100-python"  # the folder in the official archive
_ALTERNATIVES = (
    "Either download it (--download, or `make train` with network access), or name an existing copy with --root or "
    "make CIFAR100=...: the folder cifar-100-python, its .tar.gz, or class folders in train/ and test/"
)


def is_cifar100(root: Path) -> bool:
    """Whether this is CIFAR-100's folder, the folder that contains it, or a tar archive."""
    if root.is_dir():
        return root.resolve().name == ARCHIVE_FOLDER or (root / ARCHIVE_FOLDER).is_dir()
    return root.is_file() and tarfile.is_tarfile(root)


def open_cifar100(root: Path, download: bool) -> Source:
    """Reads all images into memory.

    Args:
        root: the folder `cifar-100-python`, the folder that contains it, or its tar.gz.
        download: download the archive into `root` if it is not there.

    Raises:
        DataError: the files are missing or damaged, or cannot be downloaded.
    """
    if not root.is_file():
        if not (root.is_dir() or download):
            raise DataError(f"{root}: no such file or directory. {_ALTERNATIVES}")
        return _load(root.parent if root.name == ARCHIVE_FOLDER else root, root, download)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(root) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"{root}: not a readable tar archive ({error}). {_ALTERNATIVES}") from error
        return _load(Path(folder), root, download=False)


def _load(folder: Path, root: Path, download: bool) -> Source:
    """Reads the files in `folder`/cifar-100-python; messages name `root`."""
    from data.sources.torchvision_datasets import CIFAR100

    try:
        train = CIFAR100(str(folder), train=True, download=download)
        val = CIFAR100(str(folder), train=False)
    except OSError as error:  # urllib's errors are OSErrors: no network, connection refused, unknown host
        if not download:
            raise DataError(f"{root}: cannot be read ({error})") from error
        raise DataError(f"CIFAR-100 could not be downloaded into {root} ({error}). {_ALTERNATIVES}") from error
    except RuntimeError as error:  # torchvision raises it if files are missing or their MD5 differs
        reason = (
            f"the files in {ARCHIVE_FOLDER} are incomplete, or not the official ones (their MD5 sums differ)"
            if (folder / ARCHIVE_FOLDER).is_dir()
            else f"contains neither the official CIFAR-100 files ({ARCHIVE_FOLDER}) nor train/; an archive of other "
            "images has to be unpacked first"
        )
        raise DataError(f"{root}: {reason}. {_ALTERNATIVES}") from error
    return Source(train, val, "cifar100 {}[{}]".format)
