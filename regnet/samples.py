"""Where a run's samples come from, for the commands that join regnet/ and data/."""

from dataclasses import fields
from pathlib import Path

from data.errors import DataError
from data.loader import LoaderOptions
from data.shards import Manifest, Verify, read_manifest
from data.stage import prepare, prepared
from regnet.config import Config
from regnet.distributed import World


def open_shards(config: Config, world: World) -> tuple[Path, Manifest]:
    """The shards to read and their manifest, after one process of each machine has checked, or copied, them there."""
    source, under = Path(config.data.shards), Path(config.data.stage) if config.data.stage else None
    world.on_each_machine(lambda: prepare(source, under, Verify(config.data.verify)))
    directory = prepared(source, under)
    manifest = read_manifest(directory)
    if len(set(world.gather(manifest.identity))) > 1:
        raise DataError(f"{directory}: not the same images on every machine")
    return directory, manifest


def loader_options(config: Config) -> LoaderOptions:
    """The configuration's options of the same names."""
    options = {**vars(config.data), **vars(config.augment), "batch_size": config.train.batch_size, "seed": config.seed}
    return LoaderOptions(**{field.name: options[field.name] for field in fields(LoaderOptions)})
