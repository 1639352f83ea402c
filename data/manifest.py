"""The manifest of a converted data set: what its shards must be before FFCV may open one of them.

FFCV itself notices hardly any damage: a changed byte is served as data, a cut file can end the process.
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
_SEAL = "sha256"  # a manifest is believed like its shards: by a digest
VERSION = 4
CONTENTS = 2**256  # sums of digests are taken modulo this, so that no division into shards changes them


class Verify(StrEnum):
    """How shards are checked before they are opened; sizes always are."""

    once = "once"  # SHA-256 once for each machine and state of the files
    always = "always"  # SHA-256 each time
    sizes = "sizes"


@dataclass(frozen=True)
class Shard:
    """One FFCV file: samples `first_id` to `first_id + samples - 1` of its split."""

    name: str
    first_id: int
    samples: int
    size: int  # bytes
    sha256: str
    content: str  # sum modulo 2**256 of the samples' own SHA-256 (of id, label and pixels)


@dataclass(frozen=True)
class Manifest:
    """A converted data set.

    Attributes:
        source: how it was made, as `data.convert` was told.
        resolution: side of the stored images, pixels; of mixed sizes the longest that any may have.
        mixed: whether they have sizes of their own.
        mean, std: of each channel of the training images, in units of the byte range scaled to 0..1.
        splits: the shards of "train" and "val".
        skipped: images left out because they could not be read.
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
        """Equal for the same images under the same labels, however many shards they are in."""
        contents = [
            sum(int(shard.content, 16) for shard in self.splits[split]) % CONTENTS for split in ("train", "val")
        ]
        facts = json.dumps([contents, self.resolution, self.classes])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def samples(self, split: str) -> int:
        return sum(shard.samples for shard in self.splits[split])


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest whole or not at all."""
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
        DataError: there is none, or it is not one of ours, or its numbers cannot be right.
    """
    path = directory / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{directory}: no {MANIFEST}, so no converted data set (or an unfinished one); see python -m data.convert"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of converted shards")
    if record.get("version") != VERSION:
        versions = f"format version {record.get('version')}, this program reads {VERSION}"
        raise DataError(f"{path}: {versions}: convert again, with --overwrite")
    try:
        manifest = _parse(record)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: damaged manifest ({type(error).__name__}: {str(error)[:200]})") from error
    if record.pop(_SEAL, None) != _seal(record):
        raise DataError(f"{path}: altered since it was written (its SHA-256 differs)")
    return manifest


def _seal(record: dict[str, Any]) -> str:
    """The digest of a manifest's content, in whatever way it is laid out."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _parse(record: dict[str, Any]) -> Manifest:
    splits = {split: _parse_shards(record["splits"][split]) for split in ("train", "val")}
    mean, std = (_list(record[key], float) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(0 <= m <= 1 and 0 < s <= 1 for m, s in zip(mean, std, strict=True)):
        raise ValueError("mean and std must be three numbers each, between 0 and 1")
    classes = _list(record["classes"], str)
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError("fewer than two classes, or one name twice")
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
            raise ValueError(f"a shard is described by {', '.join(types)}")
        shard = Shard(**{key: _typed(entry[key], kind) for key, kind in types.items()})
        digests = [shard.sha256, shard.content]
        if shard.samples < 1 or shard.size < 1 or not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
            raise ValueError(f"shard {shard.name!r} has an impossible count, size or digest")
        if shard.first_id != next_id or not re.fullmatch(r"[\w.-]+\.beton", shard.name):
            raise ValueError(f"shard {shard.name!r} is out of place")
        shards.append(shard)
        next_id += shard.samples
    if not shards:
        raise ValueError("a split without shards")
    return tuple(shards)


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{value!r} where a {kind.__name__} is due")
    return value


def _list(values: Any, kind: type[T]) -> tuple[T, ...]:
    return tuple(_typed(value, kind) for value in _typed(values, list))


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: Path, manifest: Manifest, how: Verify) -> None:
    """Checks every shard against the manifest.

    Raises:
        DataError: names the first file that differs, with what was expected and found.
    """
    shards = [shard for split in manifest.splits.values() for shard in split]
    for shard in shards:
        _check_size(directory / shard.name, shard.size)
    if how is Verify.sizes:
        return
    seen = _seen_marker(directory, shards)
    if how is Verify.once and os.path.exists(seen):
        return
    for shard in shards:
        _check_digest(directory / shard.name, shard.sha256)
    with contextlib.suppress(OSError):  # a home that cannot be written to only means that the next run checks again
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()


def is_whole(directory: Path, shard: Shard) -> bool:
    """Whether a file is the one that a manifest describes."""
    try:
        _check_size(directory / shard.name, shard.size)
        _check_digest(directory / shard.name, shard.sha256)
    except DataError:
        return False
    return True


def _check_digest(path: Path, expected: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if found != expected:
        raise DataError(f"{path}: SHA-256 {found[:16]}..., the manifest says {expected[:16]}...")


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if found != expected:
        raise DataError(f"{path}: {found} bytes, the manifest says {expected}")


def _seen_marker(directory: Path, shards: list[Shard]) -> Path:
    """A file whose existence says: on this machine, these very files had these digests."""
    digest = hashlib.sha256(socket.gethostname().encode())
    for shard in shards:
        path = (directory / shard.name).resolve()
        stat = path.stat()
        digest.update(f"{path}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{shard.sha256}\n".encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache / "regnet" / "verified" / digest.hexdigest()
