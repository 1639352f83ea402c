"""What the configuration needs of a machine: its shards, and memory for a step."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from data.errors import DataError
from data.loader import check_sizes
from data.manifest import Manifest, Verify, read_manifest, verify
from data.sampler import trainable_steps
from regnet.config.schema import Config
from regnet.distributed.world import choose_device
from regnet.doctor.environment import cgroups
from regnet.doctor.findings import Finding, guarded, in_bytes, note, ok, plural, stops
from regnet.errors import UsageError
from regnet.models.regnet import Model, count_parameters, freeze_backbone
from regnet.optim.optimizers import state_tensors_per_parameter

CLASSES = 100  # assumed where no manifest tells
_FLOAT = 4  # bytes


def check_needs(config: Config, size: int, processes: int, local_rank: int) -> list[Finding]:
    """What the configuration needs, and whether this machine has it.

    Args:
        size: processes of the run.
        processes: of them, on this machine.
    """
    shards = Path(config.data.shards)
    convert = "python -m data.convert --overwrite writes them anew; or copy that file again"
    if not shards.exists():
        convert = "name another --data.shards, or write them: python -m data.convert --help"
    change = "change what the message names"
    more = "a smaller --train.batch_size, more --train.grad_accum_steps or more processes"
    return [
        *guarded("shards", lambda: check_shards(config), convert, DataError, OSError),
        *guarded("batches", lambda: check_batches(config, size), change, DataError),
        *guarded("memory", lambda: check_memory(config, size, processes, local_rank), more, OSError, RuntimeError),
    ]


def class_names(config: Config) -> Sequence[str] | None:
    manifest = _manifest(config)
    return None if manifest is None else manifest.classes


def count_classes(config: Config) -> int:
    names = class_names(config)
    return CLASSES if names is None else len(names)


def _manifest(config: Config) -> Manifest | None:
    """The manifest, or None where `check_shards` says what is wrong with it."""
    try:
        return read_manifest(Path(config.data.shards))
    except DataError:
        return None


def network(config: Config, classes: int) -> Model:
    """As the run would train it."""
    model = Model(config.model.design(), classes)
    if config.train.freeze_backbone:
        freeze_backbone(model)
    return model


def check_shards(config: Config) -> list[Finding]:
    directory = Path(config.data.shards)
    manifest = read_manifest(directory)
    how = Verify(config.data.verify)
    began = time.perf_counter()
    verify(directory, manifest, how)
    seconds = time.perf_counter() - began
    check_sizes(directory, manifest, config.augment.rrc_min_scale)
    files = [shard for split in manifest.splits.values() for shard in split]
    size = sum(shard.size for shard in files)
    checked = {
        Verify.once: "sizes, and SHA-256 now or since they last changed",
        Verify.always: "sizes and SHA-256",
        Verify.sizes: "sizes alone: data.verify",
    }[how]
    samples = f"{manifest.samples('train'):,} + {manifest.samples('val'):,} images of {len(manifest.classes)} classes"
    saw = f"{directory}: {samples}; {len(files)} files of {in_bytes(size)} are as the manifest says ({checked})"
    return [ok("shards", saw, files=len(files), bytes=size, seconds=seconds)]


def check_batches(config: Config, size: int) -> list[Finding]:
    manifest = _manifest(config)
    if manifest is None:
        return []
    samples, batch = manifest.samples("train"), config.train.batch_size
    steps = trainable_steps(samples, batch, config.data.drop_last, size)
    saw = f"{plural(steps, 'step')} an epoch, {math.ceil(batch / size)} of {batch} images in each for a process"
    return [ok("batches", saw, steps=steps)]


def check_memory(config: Config, size: int, processes: int, local_rank: int) -> list[Finding]:
    """A step's needs against what is free: on the GPU, or on the machine for all of its processes."""
    need = step_bytes(config, count_classes(config), size)
    try:
        on_gpu = choose_device(config.train.device, local_rank).type == "cuda"
    except UsageError:  # the finding on the device says so
        on_gpu = False
    if on_gpu:
        free, place = torch.cuda.mem_get_info(local_rank)[0], "on the GPU"
    else:
        free, place = free_memory(), "of memory"
        need *= processes
    saw = f"a step needs at least {in_bytes(need)} {place}, {in_bytes(free)} are free"
    if need > free:
        step = "a smaller --train.batch_size, more --train.grad_accum_steps, or more processes elsewhere"
        return [stops("memory", saw, step, need=need, free=free)]
    if need > 0.7 * free:
        step = "close, for libraries add their own: more --train.grad_accum_steps"
        return [note("memory", saw, step, need=need, free=free)]
    return [ok("memory", saw, need=need, free=free)]


def step_bytes(config: Config, classes: int, size: int) -> int:
    """What one process holds at the end of a forward pass, at least: libraries add their own."""
    part = math.ceil(config.train.batch_size / size)
    pixels = 3 * config.data.resolution**2
    model = network(config, classes)
    numbers = count_parameters(model) * (1 + (config.optim.ema_decay > 0))
    numbers += count_parameters(model, trainable_only=True) * (1 + state_tensors_per_parameter(config.optim))  # beside gradients
    kept = math.ceil(part / config.train.grad_accum_steps) * _kept_for_an_image(model, config.data.resolution)
    if config.train.precision != "fp32":
        kept //= 2
    return kept + numbers * _FLOAT + part * pixels * _FLOAT


def _kept_for_an_image(model: Model, resolution: int) -> int:
    """Bytes that a forward pass leaves for the backward pass; of two images, for BatchNorm needs more than one."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        # Held until all is counted, for memory that is given back may be handed out again.
        loss = F.cross_entropy(model(torch.zeros(2, 3, resolution, resolution)), torch.zeros(2, dtype=torch.int64))
    counted = sum(size for address, size in kept.items() if address not in weights)
    del loss
    return counted // 2


def free_memory() -> int:
    """Bytes: what the kernel calls available, and no more than every cgroup of this process leaves."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    return min([available, *_left_in_cgroups()])


def _left_in_cgroups() -> Iterator[int]:
    for group in cgroups():
        with suppress(OSError, ValueError):  # no such file, as in the root; or "max", no limit
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            yield limit - used + int(stat.get("file", 0))  # cached files give way
