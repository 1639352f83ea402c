"""Builds what a run trains with, from its configuration: model, loss, optimiser, EMA."""

from dataclasses import asdict
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from regnet.config.schema import Config, to_plain_types
from regnet.distributed.gradients import needs_rank_order, uses_one_bucket, wrap_ddp
from regnet.distributed.world import World
from regnet.metrics.training import TrainingAccumulator
from regnet.models.regnet import Model, count_parameters, freeze_backbone, initialize_weights, set_drop_path_rates
from regnet.models.sync_batchnorm import convert_sync_batchnorm
from regnet.optim.optimizers import build_optimizer
from regnet.training.amp import Precision
from regnet.training.compiler import check_compiler, compile_network
from regnet.training.compute_copy import compute_copy
from regnet.training.dataset import Dataset
from regnet.training.distillation import open_teacher
from regnet.training.early_stopping import EarlyStopping
from regnet.training.ema import ModelEma
from regnet.training.flat_network import FlatNetwork
from regnet.training.loss import Loss
from regnet.training.state import Progress, TrainingState
from regnet.training.torch_setup import rank_seed
from regnet.training.train_step import TrainStep

M = TypeVar("M", bound=nn.Module)


def build_train_step(config: Config, world: World, dataset: Dataset) -> TrainStep:
    """A network with its initial weights, and everything that one optimiser step needs, on this rank's device.

    All ranks call it together, after torch_setup.configure_torch has seeded the initialisation.

    Raises:
        UsageError: on all ranks, if the teacher or torch.compile cannot be used.
    """
    if config.train.compile:
        world.run_on_all(lambda: check_compiler(world.device))
    model = build_model(config, world, len(dataset.classes))
    loss = build_loss(config, world, dataset)
    precision = Precision(config.train.precision, world.device)
    network = build_network(model, world, precision.dtype, config.train.compile, config.train.deterministic)
    state = build_state(config, world, model, precision, dataset)  # after DDP has broadcast rank zero's weights
    torch.manual_seed(rank_seed(config.seed, world.rank))  # stochastic depth must drop different samples on each rank
    return TrainStep(config, world, network, loss, precision, state)


def build_model(config: Config, world: World, classes: int) -> Model:
    """The initialised network on the device."""
    train = config.train
    model = Model(config.model.design(), classes)
    set_drop_path_rates(model, train.drop_path)
    initialize_weights(model, train.init_std, train.zero_init_residual)
    if train.sync_batchnorm and world.size > 1:
        convert_sync_batchnorm(model)
    if train.freeze_backbone:
        freeze_backbone(model)
    return _to_device(model, config, world)


def build_network(
    model: nn.Module, world: World, dtype: torch.dtype, compile: bool = False, deterministic: bool = False
) -> nn.Module:
    """The training passes of `model`: a FlatNetwork, or a bare copy if gradients are exchanged in several buckets.

    Args:
        dtype: dtype of convolutions and matrix products.
    """
    flat = world.size == 1 or uses_one_bucket(count_parameters(model, trainable_only=True))
    compute = compute_copy(model, dtype if flat else torch.float32)
    if compile:
        compile_network(compute.network, partial(print, flush=True) if world.is_main else None)
    if not flat:
        return wrap_ddp(compute.network, world, needs_rank_order(world.size, world.device.type, deterministic))
    network = FlatNetwork(model, compute)
    wrapped = wrap_ddp(network, world)
    if isinstance(wrapped, DistributedDataParallel):
        network.share_bucket(wrapped)
    return wrapped


def build_loss(config: Config, world: World, dataset: Dataset) -> Loss:
    """The loss; rank zero reads the teacher, if there is one, and broadcasts it."""
    teacher = world.broadcast_object(world.on_main(lambda: open_teacher(config, dataset)))
    if teacher is not None:
        teacher = _to_device(teacher, config, world)
    return Loss(config.train.label_smoothing, teacher, config.distill)


def build_state(config: Config, world: World, model: Model, precision: Precision, dataset: Dataset) -> TrainingState:
    """Everything that changes during training, at step 0."""
    lower_is_better = config.early_stopping.monitor == "train_loss"
    return TrainingState(
        model=model,
        optimizer=build_optimizer(model, config.optim, precision.dtype),
        scaler=precision.scaler,
        ema=ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay else None,
        metrics=TrainingAccumulator(len(dataset.classes), world.device),
        stopping=EarlyStopping(config.early_stopping.patience, "min" if lower_is_better else "max"),
        progress=Progress(),
        metadata={
            "config": to_plain_types(asdict(config)),
            "data": dataset.identity,
            "classes": list(dataset.classes),
            "normalization": {"mean": list(dataset.mean), "std": list(dataset.std)},
        },
    )


def _to_device(network: M, config: Config, world: World) -> M:
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    return network.to(world.device, memory_format=memory_format)  # type: ignore[call-overload]  # missing in its stub
