"""Runs all measurements."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import command
from benchmarks.command import Report
from benchmarks.probe.clock import Clock
from benchmarks.probe.kernels import kernels_of
from benchmarks.probe.layers import layers_of, time_convolution, time_others
from benchmarks.step.machine import bandwidth, matrix_rate
from benchmarks.timing import environment
from data.manifest import read_manifest
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.models.regnet import Model
from regnet.training.amp import Precision


def measure(args: Namespace, config: Config, world: World) -> Report:
    """Measures all layers; returns the report for the JSON file."""
    machine = environment(world.device)
    classes = len(read_manifest(Path(config.data.shards)).classes)
    network = Model(config.model.design(), classes)
    convolutions, normalized = layers_of(network, config.data.resolution)
    precision, batch = Precision(config.train.precision, world.device), config.train.batch_size
    with _side_stream(world.device):
        copied = bandwidth(args.seconds, world.device)
        clock = Clock(world.device, args.rounds, args.seconds, copied)
        timed_convolutions = [
            {
                "layer": str(shape),
                "kind": shape.kind,
                **shape._asdict(),
                "count": count,
                "variants": time_convolution(shape, batch, precision.dtype, clock),
            }
            for shape, count in convolutions.items()
        ]
        timed_others = [
            {**shape._asdict(), "count": count, "times": time_others(shape, batch, precision.dtype, clock)}
            for shape, count in normalized.items()
        ]
        kernels = kernels_of(*_training_batch(network, config, world.device, precision.dtype, classes), precision)
        return {
            **machine,
            "config": command.config_description(args),
            "cudnn": torch.backends.cudnn.version(),
            "precision": config.train.precision,
            "resolution": config.data.resolution,
            "batch_size": batch,
            "rounds": args.rounds,
            "seconds": args.seconds,
            "machine": {
                "flops_per_second": matrix_rate(precision, args.seconds, world.device),
                "bytes_per_second": copied,
            },
            "convolutions": timed_convolutions,
            "others": timed_others,
            "kernels": [kernel._asdict() for kernel in kernels],
            "results": dict(sums(timed_convolutions, timed_others)),
        }


def _side_stream(device: torch.device) -> AbstractContextManager[Any]:
    """A backward pass runs on the stream of its forward pass; the default stream cannot be captured."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()


def _training_batch(
    network: nn.Module, config: Config, device: torch.device, dtype: torch.dtype, classes: int
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network in training mode with weights in the dtype of the computations, and random images and labels."""
    memory = torch.channels_last if config.train.channels_last else torch.contiguous_format
    network.to(device, memory_format=memory).train()  # type: ignore[call-overload]  # missing in its stub
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
    batch, side = config.train.batch_size, config.data.resolution
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=memory)
    return network, images, torch.randint(classes, (batch,), device=device)


def sums(convolutions: list[dict[str, Any]], others: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Microseconds of all layers of a kind in one step, and those of moving their bytes."""
    for kind in dict.fromkeys(layer["kind"] for layer in convolutions):
        layers = [layer for layer in convolutions if layer["kind"] == kind]
        for variant in layers[0]["variants"]:
            passes = [(layer["count"], each) for layer in layers for each in layer["variants"][variant].values()]
            yield f"{kind}, {variant}", _sum(passes)
    for name in others[0]["times"]:
        yield name, _sum([(layer["count"], layer["times"][name]) for layer in others])


def _sum(times: list[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    total = sum(count * each["us"] for count, each in times)
    limit = sum(count * each["us"] / each["ratio"] for count, each in times)
    return {"us": total, "limit_us": limit, "ratio": total / limit}
