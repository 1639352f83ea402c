"""Writing and mapping shards: progress, sources that cannot be stored, and shards that another manifest describes."""

from dataclasses import replace

import pytest
from converting import one_class_per_folder
from images import convert_synthetic

from data.errors import DataError
from data.image_encoding import Encoding
from data.manifest import read_manifest
from data.reading.mmap_shards import MappedShards
from data.sources.class_folders import ClassFolders
from data.sources.registry import Kind, open_source
from data.sources.source import Source
from data.writing import shard_writer
from data.writing.dataset_writer import convert_dataset
from data.writing.options import WriterOptions
from data.writing.shard_writer import Progress, write_shard


def test_every_piece_that_is_flushed_is_progress(tmp_path, monkeypatch):
    """A piece is two pages of 2 MiB here; four pages hold two images of 768 kB each, after one for the header."""
    source, _ = open_source(Kind.folder, one_class_per_folder(tmp_path / "images", [(512, 512)] * 3), validation=1)
    monkeypatch.setattr(shard_writer, "_UNSYNCED", 1 << 22)
    progress, encoding = Progress(), Encoding(512, "raw", 95, resize=False, mixed=True)
    write_shard(source, "train", range(8), 0, tmp_path / "train.beton", encoding, progress)
    flushed, hashed = 2, 1
    assert (progress.samples, progress.steps) == (8, 8 + flushed + hashed)


def test_a_source_with_one_class_is_rejected_before_a_shard_is_written(tmp_path):
    images = ClassFolders({"ant": ["0.png", "1.png"]})
    with pytest.raises(DataError, match="the images have only 1 class; a classifier needs at least two"):
        convert_dataset(
            Source(images, images, "{}[{}]".format),
            tmp_path,
            Encoding(32, "raw", 95, resize=False, mixed=False),
            WriterOptions(shards=1, workers=1, timeout=1, skip_bad=False),
            {},
        )
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return convert_synthetic(tmp_path_factory.mktemp("small") / "out", 1, 2)


def test_shards_are_mapped_only_with_the_manifest_that_describes_them(small):
    """Their digests do not cover what the manifest says about them."""
    manifest = read_manifest(small)
    first, second = manifest.splits["train"]

    def message(**changed):
        with pytest.raises(DataError) as caught:
            MappedShards(small, replace(manifest, **changed), "train")
        assert "; convert the images again: python -m data.convert --overwrite" in str(caught.value)
        return str(caught.value)

    fewer = {"train": (replace(first, samples=49), second)}
    assert message(splits=fewer).startswith(f"{small / first.name}: does not hold samples 0 to 48 as its manifest says")
    exchanged = {"train": (replace(first, name=second.name), replace(second, name=first.name))}
    assert message(splits=exchanged).startswith(f"{small / second.name}: does not hold samples 0 to 49 as its manifest")
    assert "holds images that are not 31x31 pixels as its manifest says" in message(resolution=31)
    mixed = message(resolution=31, mixed=True)
    assert "holds images whose sides are not 1 to 31 pixels as its manifest says" in mixed
