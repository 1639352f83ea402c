"""Where regnet/ and data/ meet: opening a run's shards, loader options, inference transforms."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from data.errors import DataError
from data.inference_transform import InferenceTransform, inference_transform
from data.local_copy import prepare_shards, shard_directory
from data.manifest import Manifest, Verify, read_manifest
from data.open_loaders import LoaderOptions
from data.reading.shard_reader import max_workers
from regnet.checkpoint.load_model import TrainedModel
from regnet.config.adaptation import adapt_to_dataset, reduce_workers
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.errors import UsageError


def open_shards(config: Config, world: World) -> tuple[Path, Manifest]:
    """The directory to read and its manifest, after one process per node has verified or copied the shards."""
    source = Path(config.data.shards)
    cache_dir = Path(config.data.local_cache_dir) if config.data.local_cache_dir else None
    world.on_each_node(lambda: prepare_shards(source, cache_dir, Verify(config.data.verify)))
    directory = shard_directory(source, cache_dir)
    manifest = read_manifest(directory)
    if len(set(world.gather(manifest.identity))) > 1:
        raise DataError(f"{directory}: not the same dataset on every node; copy the same shards to all nodes")
    return directory, manifest


def adapt_to_manifest(config: Config, manifest: Manifest) -> tuple[Config, list[str]]:
    """The configuration adapted to the dataset, as the run stores it, and a line about each change."""
    return adapt_to_dataset(config, manifest.mixed, manifest.samples("train"))


def adapt_to_process(config: Config) -> tuple[Config, list[str]]:
    """The configuration adapted to this process, which is not stored, and a line about each change."""
    return reduce_workers(config, max_workers())


def loader_options(config: Config) -> LoaderOptions:
    """The configuration's options of the same names."""
    other = {"batch_size": config.train.batch_size, "seed": config.seed, "augment": config.augment}
    options = {**vars(config.data), **other}
    return LoaderOptions(**{field.name: options[field.name] for field in fields(LoaderOptions)})


def manifest_and_transform(trained: TrainedModel, shards: str | Path | None) -> tuple[Manifest, InferenceTransform]:
    """The manifest of a model's shards, and the transform that prepares an image like its validation images.

    Args:
        shards: other shards than the run was trained on, or None.

    Raises:
        DataError: the manifest cannot be used.
        UsageError: the manifest has other classes than the model.
    """
    data, augment = trained.config.data, trained.config.augment
    directory = Path(shards or data.shards)
    with recommend_shards_option(shards):
        manifest = read_manifest(directory)
    manifest = as_in_training(trained, directory, manifest)
    transform = inference_transform(directory, manifest, augment.rrc_min_scale, data.center_crop_ratio, data.resolution)
    return manifest, transform


@contextmanager
def recommend_shards_option(shards: str | Path | None) -> Iterator[None]:
    """Adds --shards to the message of a DataError about the shards of the run, which may be gone from this machine.

    Args:
        shards: those that were given instead, or None.
    """
    try:
        yield
    except DataError as error:
        if shards:
            raise
        raise DataError(f"{error}, or use --shards to name converted images of the same classes") from error


def as_in_training(trained: TrainedModel, directory: Path, manifest: Manifest) -> Manifest:
    """The manifest with the normalisation that the model was trained with, which other images may not have.

    Raises:
        UsageError: the shards have other classes than the model.
    """
    if manifest.classes != trained.classes:
        raise UsageError(f"{directory}: its classes differ from those that the checkpoint was trained on; use --shards")
    if trained.normalization is None:
        return manifest
    return replace(manifest, mean=trained.normalization["mean"], std=trained.normalization["std"])
