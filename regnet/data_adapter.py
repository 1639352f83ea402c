"""Where a run's samples come from, and what makes pictures like them, for the commands that join regnet/ and data/."""

from dataclasses import fields
from pathlib import Path

from data.errors import DataError
from data.inference_transform import InferenceTransform, preparation
from data.loader import LoaderOptions
from data.local_copy import prepare, prepared
from data.manifest import Manifest, Verify, read_manifest
from regnet.checkpoint.load_model import TrainedModel
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.errors import UsageError


def open_shards(config: Config, world: World) -> tuple[Path, Manifest]:
    """The shards to read and their manifest, after one process of each machine has checked, or copied, them there."""
    source, under = Path(config.data.shards), Path(config.data.local_cache_dir) if config.data.local_cache_dir else None
    world.on_each_node(lambda: prepare(source, under, Verify(config.data.verify)))
    directory = prepared(source, under)
    manifest = read_manifest(directory)
    if len(set(world.gather(manifest.identity))) > 1:
        raise DataError(f"{directory}: not the same images on every machine")
    return directory, manifest


def loader_options(config: Config) -> LoaderOptions:
    """The configuration's options of the same names."""
    options = {**vars(config.data), **vars(config.augment), "batch_size": config.train.batch_size, "seed": config.seed}
    return LoaderOptions(**{field.name: options[field.name] for field in fields(LoaderOptions)})


def manifest_and_transform(trained: TrainedModel, shards: Path | None) -> tuple[Manifest, InferenceTransform]:
    """The manifest of a network's shards, and what makes a picture as its test images were.

    Args:
        shards: others than those that the run was trained on, or None.

    Raises:
        DataError: there is none that can be used.
        UsageError: it is of other classes.
    """
    data, augment = trained.config.data, trained.config.augment
    directory = shards or Path(data.shards)
    try:
        manifest = read_manifest(directory)
    except DataError as error:
        if shards:
            raise
        raise DataError(f"{error}; --shards names others that the run may be told by") from error
    check_classes(trained, directory, manifest)
    return manifest, preparation(directory, manifest, augment.rrc_min_scale, data.center_crop_ratio, data.resolution)


def check_classes(trained: TrainedModel, directory: Path, manifest: Manifest) -> None:
    """Raises UsageError for shards whose labels mean something else than the network's."""
    if manifest.classes != trained.classes:
        raise UsageError(f"{directory}: the checkpoint was trained on other classes")
