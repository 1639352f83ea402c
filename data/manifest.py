"""The manifest of a converted dataset, against which shards are verified before FFCV opens one of them.

FFCV itself detects hardly any damage: a changed byte is served as data, and a truncated file can crash the process.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from data.errors import DataError

T = TypeVar("T")

MANIFEST = "manifest.json"
FORMAT = "regnet-shards"
_SEAL = "sha256"  # the manifest itself is verified by a digest, like its shards
VERSION = 5
_CONVERT_AGAIN = "restore it from a copy, or convert again with python -m data.convert --overwrite"
CONTENT_MODULUS = 2**256  # digests of samples are added modulo this: the sum does not depend on the shards


class ForeignManifest(DataError):
    """A file of this name that belongs to something else."""


class Verify(StrEnum):
    """How shards are checked before they are opened."""

    once = "once"  # SHA-256 once per node, and again when a file has changed
    always = "always"  # SHA-256 every time
    sizes = "sizes"  # file sizes only, which the others check as well


@dataclass(frozen=True)
class Shard:
    """One FFCV file: samples `first_id` to `first_id + samples - 1` of its split."""

    name: str
    first_id: int
    samples: int
    size: int  # bytes
    sha256: str
    content: str  # sum modulo 2**256 of the SHA-256 of every sample (of its id, label and pixels)


@dataclass(frozen=True)
class Manifest:
    """A converted dataset.

    Attributes:
        source: the options of `data.convert`.
        resolution: side of the stored images in pixels; if sizes are mixed, the longest side that any may have.
        mixed: whether images keep their own sizes and shapes; otherwise all are `resolution` x `resolution`.
        classes: class names, by label.
        mean, std: per channel of the training images; a byte is scaled to 0..1.
        splits: the shards of "train" and "val".
        skipped: names of images that --skip-bad skipped.
    """

    source: dict[str, Any]
    resolution: int
    mixed: bool
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: dict[str, tuple[Shard, ...]]
    skipped: tuple[str, ...]

    @property
    def identity(self) -> str:
        """Equal for the same images with the same labels, however many shards they are in."""
        contents = [
            sum(int(shard.content, 16) for shard in self.splits[split]) % CONTENT_MODULUS for split in ("train", "val")
        ]
        facts = json.dumps([contents, self.resolution, self.classes])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def samples(self, split: str) -> int:
        """Number of samples of a split."""
        return sum(shard.samples for shard in self.splits[split])


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest atomically."""
    record = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    text = json.dumps({**record, _SEAL: _seal(record)}, indent=1)
    temporary = directory / f".{MANIFEST}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / MANIFEST)


def read_manifest(directory: Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        ForeignManifest: it is not the manifest of a converted dataset.
        DataError: it is missing, damaged, altered, of another format version, or has impossible values.
    """
    path = directory / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{directory}: no {MANIFEST}: not a converted dataset, or its conversion was not completed; "
            "convert it with python -m data.convert"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); {_CONVERT_AGAIN}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ForeignManifest(f"{path}: not the manifest of a converted dataset; use another directory")
    try:
        version = _typed(record["version"], int)
        if version != VERSION:
            raise DataError(_other_version(directory, version))
        manifest = _parse(record)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        cause = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataError(f"{path}: damaged manifest ({cause}); {_CONVERT_AGAIN}") from error
    if record.pop(_SEAL, None) != _seal(record):
        raise DataError(f"{path}: altered since it was written (its SHA-256 differs); {_CONVERT_AGAIN}")
    return manifest


def _other_version(directory: Path, version: int) -> str:
    age, update = ("an older", "") if version < VERSION else ("a newer", "update this program, ")
    return (
        f"{directory} was converted by {age} version of this program (manifest format {version}, this version reads "
        f"{VERSION}): {update}convert the images again with python -m data.convert --overwrite, or delete {directory} "
        "and run make again"
    )


def _seal(record: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, whatever its layout in the file."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _parse(record: dict[str, Any]) -> Manifest:
    splits = {split: _parse_shards(record["splits"][split]) for split in ("train", "val")}
    mean, std = (_list(record[key], float) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(0 <= m <= 1 and 0 < s <= 1 for m, s in zip(mean, std, strict=True)):
        raise ValueError("mean and std must be three numbers each, between 0 and 1")
    classes = _list(record["classes"], str)
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError("fewer than two classes, or a duplicate name")
    resolution = _typed(record["resolution"], int)
    if resolution < 1:
        raise ValueError(f"resolution {resolution}")
    source = _typed(record["source"], dict)
    mixed = _typed(record["mixed"], bool)
    return Manifest(source, resolution, mixed, classes, mean, std, splits, _list(record["skipped"], str))


def _parse_shards(entries: Any) -> tuple[Shard, ...]:
    shards, next_id = [], 0
    types = get_type_hints(Shard)
    for entry in _typed(entries, list):
        if set(_typed(entry, dict)) != set(types):
            raise ValueError(f"the fields of a shard must be {', '.join(types)}")
        shard = Shard(**{key: _typed(entry[key], kind) for key, kind in types.items()})
        digests = [shard.sha256, shard.content]
        if shard.samples < 1 or shard.size < 1 or not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
            raise ValueError(f"shard {shard.name!r} has an impossible count, size or digest")
        if shard.first_id != next_id or not re.fullmatch(r"[\w.-]+\.beton", shard.name):
            raise ValueError(f"shard {shard.name!r} has an invalid name or first_id")
        shards.append(shard)
        next_id += shard.samples
    if not shards:
        raise ValueError("a split without shards")
    return tuple(shards)


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}, got {value!r}")
    return value


def _list(values: Any, kind: type[T]) -> tuple[T, ...]:
    return tuple(_typed(value, kind) for value in _typed(values, list))


def shard_names(manifest: Manifest) -> set[str]:
    return {shard.name for shards in manifest.splits.values() for shard in shards}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: Path, manifest: Manifest, how: Verify) -> None:
    """Checks every shard against the manifest.

    Raises:
        DataError: names the first file that differs, and what was expected and found.
    """
    try:
        _verify(directory, manifest, how)
    except DataError as error:
        if _was_replaced(directory, manifest):
            raise DataError(f"{directory} was replaced by another conversion just now: start again") from error
        raise


def _was_replaced(directory: Path, manifest: Manifest) -> bool:
    try:
        return read_manifest(directory) != manifest
    except DataError:
        return False


def _verify(directory: Path, manifest: Manifest, how: Verify) -> None:
    shards = [shard for split in manifest.splits.values() for shard in split]
    for shard in shards:
        _check_size(directory / shard.name, shard.size)
    if how is Verify.sizes:
        return
    marker = _verified_marker(directory, shards)
    if how is Verify.once and os.path.exists(marker):
        return
    for shard in shards:
        _check_digest(directory / shard.name, shard.sha256)
    with contextlib.suppress(OSError):  # if the cache is not writable, the next run just checks again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def is_intact(directory: Path, shard: Shard) -> bool:
    """Whether a shard's file has the size and the digest that the manifest records."""
    try:
        _check_size(directory / shard.name, shard.size)
        _check_digest(directory / shard.name, shard.sha256)
    except DataError:
        return False
    return True


def _check_digest(path: Path, expected: str) -> None:
    try:
        found = sha256(path)
    except PermissionError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {_CONVERT_AGAIN}") from error
    if found != expected:
        raise DataError(
            f"{path}: SHA-256 {found[:16]}..., but the manifest records {expected[:16]}...; {_CONVERT_AGAIN}"
        )


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {_CONVERT_AGAIN}") from error
    if found != expected:
        raise DataError(f"{path}: {found} bytes, but the manifest records {expected}; {_CONVERT_AGAIN}")


def _verified_marker(directory: Path, shards: list[Shard]) -> Path:
    """A file that exists if, on this node, exactly these files had these digests."""
    digest = hashlib.sha256(socket.gethostname().encode())
    for shard in shards:
        path = (directory / shard.name).resolve()
        stat = path.stat()
        digest.update(f"{path}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{shard.sha256}\n".encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache / "regnet" / "verified" / digest.hexdigest()
