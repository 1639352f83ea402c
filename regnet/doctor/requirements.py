"""Checks of what the configuration requires: shards, batches, memory, pretrained weights, a W&B key."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from data.errors import DataError
from data.manifest import Manifest, Verify, read_manifest, verify
from data.open_loaders import check_sizes
from data.sampler import trainable_steps
from regnet.checkpoint.pretrained import read_weights
from regnet.config.schema import Config, TrackingConfig
from regnet.distributed.world import choose_device
from regnet.doctor.environment import cgroups
from regnet.doctor.findings import Finding, fail, format_bytes, guarded, ok, plural, warn
from regnet.errors import UsageError
from regnet.models.regnet import Model, count_parameters, freeze_backbone
from regnet.optim.optimizers import state_tensors_per_parameter
from regnet.runs.directory import run_path
from regnet.tracking.wandb_settings import choose_mode, describe_error, has_credentials, overruled
from regnet.training.amp import FIX as PRECISION_FIX
from regnet.training.amp import precision_problem
from regnet.training.compiler import FIX as COMPILER_FIX
from regnet.training.compiler import compiler_problem

DEFAULT_CLASSES = 100  # assumed without a manifest
_FLOAT = 4  # bytes


def check_node_requirements(config: Config, world_size: int, processes: int, local_rank: int) -> list[Finding]:
    """Checks that one process per node makes.

    Args:
        processes: number of the run's processes on this node.
    """
    recreate = "copy the file again, or write the shards again: python -m data.convert --overwrite"
    if not Path(config.data.shards).exists():
        recreate = "set --data.shards, or write the shards: python -m data.convert --help"
    batches = "change the options that the message names"
    memory = "use a smaller --train.batch_size, a larger --train.grad_accum_steps, or more processes"
    return [
        *check_compile(config, local_rank),
        *check_precision(config, local_rank),
        *guarded("shards", lambda: check_shards(config), recreate, DataError, OSError),
        *guarded("batches", lambda: check_batches(config, world_size), batches, DataError),
        *guarded(
            "memory", lambda: check_memory(config, world_size, processes, local_rank), memory, OSError, RuntimeError
        ),
    ]


def check_run_requirements(config: Config) -> list[Finding]:
    """Checks that rank zero makes for the run."""
    weights = "use other --model.weights"
    return [
        *guarded("weights", lambda: check_weights(config, run_path(config)), weights, UsageError),
        *check_wandb(config),
    ]


def check_compile(config: Config, local_rank: int) -> list[Finding]:
    """Whether torch.compile works on this node, if the run uses it."""
    device = _device(config, local_rank)
    if not config.train.compile or device is None:
        return []
    problem = compiler_problem(device)
    if problem:
        return [fail("compile", f"torch.compile does not work: {problem}", COMPILER_FIX)]
    return [ok("compile", "torch.compile works")]


def check_precision(config: Config, local_rank: int) -> list[Finding]:
    """A warning if train.precision makes training slower on this node."""
    device = _device(config, local_rank)
    problem = "" if device is None else precision_problem(config.train.precision, device)
    return [warn("precision", problem, PRECISION_FIX)] if problem else []


def _device(config: Config, local_rank: int) -> torch.device | None:
    """The device of this process; None if there is none, which check_device reports."""
    try:
        return choose_device(config.train.device, local_rank)
    except UsageError:
        return None


def class_names(config: Config) -> Sequence[str] | None:
    manifest = _manifest(config)
    return None if manifest is None else manifest.classes


def count_classes(config: Config) -> int:
    names = class_names(config)
    return DEFAULT_CLASSES if names is None else len(names)


def _manifest(config: Config) -> Manifest | None:
    """The manifest, or None if it cannot be read, which `check_shards` reports."""
    try:
        return read_manifest(Path(config.data.shards))
    except DataError:
        return None


def build_untrained_model(config: Config, classes: int) -> Model:
    """The network of the run, with frozen parameters if the backbone is frozen."""
    model = Model(config.model.design(), classes)
    if config.train.freeze_backbone:
        freeze_backbone(model)
    return model


def check_shards(config: Config) -> list[Finding]:
    directory = Path(config.data.shards)
    manifest = read_manifest(directory)
    mode = Verify(config.data.verify)
    started = time.perf_counter()
    verify(directory, manifest, mode)
    seconds = time.perf_counter() - started
    check_sizes(directory, manifest, config.augment.rrc_min_scale)
    files = [shard for split in manifest.splits.values() for shard in split]
    size = sum(shard.size for shard in files)
    verified = {
        Verify.once: "sizes, and SHA-256 once per node",
        Verify.always: "sizes and SHA-256",
        Verify.sizes: "sizes only (data.verify)",
    }[mode]
    message = (
        f"{directory}: {manifest.samples('train'):,} training and {manifest.samples('val'):,} validation images, "
        f"{len(manifest.classes)} classes; {len(files)} files ({format_bytes(size)}) match the manifest ({verified})"
    )
    return [ok("shards", message, files=len(files), bytes=size, seconds=seconds)]


def check_batches(config: Config, world_size: int) -> list[Finding]:
    manifest = _manifest(config)
    if manifest is None:
        return []
    batch, limit = config.train.batch_size, config.train.max_steps_per_epoch
    in_dataset = trainable_steps(manifest.samples("train"), batch, config.data.drop_last, world_size)
    steps = min(in_dataset, limit or in_dataset)
    message = f"{plural(steps, 'step')} per epoch"
    if steps < in_dataset:
        message += f" (train.max_steps_per_epoch; {in_dataset:,} without it)"
    message += f", with {math.ceil(batch / world_size)} of {batch} images per process"
    return [ok("batches", message, steps=steps)]


def check_memory(config: Config, world_size: int, processes: int, local_rank: int) -> list[Finding]:
    """Compares what a step needs with what is free: on the GPU, or on the node for all of its processes."""
    need = step_bytes(config, count_classes(config), world_size)
    device = _device(config, local_rank)
    if device is not None and device.type == "cuda":
        free, kind = torch.cuda.mem_get_info(local_rank)[0], "GPU memory"
    else:
        free, kind = free_memory(), "memory"
        need *= processes
    message = f"a step needs at least {format_bytes(need)} of {kind}, {format_bytes(free)} are free"
    if need > free:
        fix = "use a smaller --train.batch_size, a larger --train.grad_accum_steps, or more processes on other nodes"
        return [fail("memory", message, fix, need=need, free=free)]
    if need > 0.7 * free:
        fix = "it may not be enough, as libraries need memory too: use a larger --train.grad_accum_steps"
        return [warn("memory", message, fix, need=need, free=free)]
    return [ok("memory", message, need=need, free=free)]


def step_bytes(config: Config, classes: int, world_size: int) -> int:
    """Lower bound of the memory of one process at the end of a forward pass; libraries need more."""
    images = math.ceil(config.train.batch_size / world_size)
    pixels = 3 * config.data.resolution**2
    model = build_untrained_model(config, classes)
    numbers = count_parameters(model) * (1 + (config.optim.ema_decay > 0))
    gradients_and_state = 1 + state_tensors_per_parameter(config.optim)
    numbers += count_parameters(model, trainable_only=True) * gradients_and_state
    micro_batch = math.ceil(images / config.train.grad_accum_steps)
    activations = micro_batch * _activation_bytes_per_image(model, config.data.resolution)
    if config.train.precision != "fp32":
        activations //= 2
    return activations + numbers * _FLOAT + images * pixels * _FLOAT


def _activation_bytes_per_image(model: Model, resolution: int) -> int:
    """Bytes that a forward pass saves for the backward pass; measured on two images, as BatchNorm needs several."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        # The loss keeps all saved tensors alive, so that none of their addresses is reused before they are counted.
        loss = F.cross_entropy(model(torch.zeros(2, 3, resolution, resolution)), torch.zeros(2, dtype=torch.int64))
    total = sum(size for address, size in saved.items() if address not in weights)
    del loss
    return total // 2


def free_memory() -> int:
    """Bytes that are available according to the kernel, limited by the cgroups of this process."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    return min([available, *_free_in_cgroups()])


def _free_in_cgroups() -> Iterator[int]:
    for group in cgroups():
        with suppress(OSError, ValueError):  # no such file, as in the root cgroup; or "max", no limit
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            # The page cache can be reclaimed. "file" would include files in tmpfs, which cannot.
            yield limit - used + int(stat["active_file"]) + int(stat["inactive_file"])


def check_weights(config: Config, directory: Path) -> list[Finding]:
    """Reads the pretrained weights of a new run; a resumed run does not need them."""
    if not config.model.weights or any((directory / "checkpoints").glob("*.pt")):
        return []
    with torch.device("meta"):
        state_dict = Model(config.model.design(), count_classes(config)).state_dict()
    return [ok("weights", read_weights(config.model, state_dict, class_names(config)).description)]


def check_wandb(config: Config) -> list[Finding]:
    tracking = config.tracking
    ignored = [warn("W&B", line, "unset the variable, or the option") for line in overruled(tracking)]
    return [_wandb_mode(tracking), *ignored]


def _wandb_mode(tracking: TrackingConfig) -> Finding:
    option = f"tracking.wandb: {tracking.wandb}"
    try:
        mode, reason = choose_mode(tracking)
    except Exception as error:  # noqa: BLE001  # of the library, for invalid settings; a run continues without W&B
        return warn("W&B", f"not used: {describe_error(error)} ({option})", "correct wandb's settings")
    try:
        without_key = mode == "online" and not has_credentials()
    except Exception as error:  # noqa: BLE001  # as above, for an invalid key; a run logs offline
        return warn(
            "W&B",
            f"{describe_error(error)}; logs offline ({option})",
            "correct the API key: run wandb login, or set WANDB_API_KEY",
        )
    if without_key:
        fix = "run wandb login, set WANDB_API_KEY, or use --tracking.wandb offline"
        return warn("W&B", f"no API key, logs offline ({option})", fix)
    if not reason:
        return ok("W&B", option)
    return ok("W&B", f"{reason}, {'not used' if mode == 'disabled' else f'logs {mode}'} ({option})")
