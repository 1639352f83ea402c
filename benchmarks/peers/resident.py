"""The upper limit: this trainer's step on one batch that stays on the device, without loading and evaluation."""

import torch
from torch.nn import functional as F

from benchmarks.peers.network import our_network
from benchmarks.peers.process_group import Process, run_loop
from benchmarks.peers.protocol import EpochTimer, Settings
from benchmarks.peers.samples import open_samples
from data.augment.resize_normalize import ResizeNormalize
from regnet.distributed.world import World
from regnet.training.amp import Precision
from regnet.training.builder import build_network
from regnet.training.torch_setup import keep_freed_memory


def train(settings: Settings, process: Process) -> None:
    if process.device.type == "cpu":
        keep_freed_memory()
    samples = open_samples(settings)
    manifest, size = samples.manifest, settings.batch_size // process.world_size
    first = process.rank * size
    pixels = torch.from_numpy(samples.train.pixels[first : first + size].copy()).to(process.device)
    resize_normalize = ResizeNormalize(manifest.mean, manifest.std, settings.resolution, process.device)
    images = resize_normalize(pixels).contiguous(memory_format=settings.memory_format)
    labels = torch.tensor(samples.train.labels[first : first + size], device=process.device)
    world = World(process.rank, process.world_size, process.local_rank, process.device, control=None, heartbeat=None)
    precision = Precision(settings.precision, process.device)
    model = our_network(settings, samples.classes).to(process.device)
    network = build_network(model, world, precision.dtype)
    optimizer = torch.optim.SGD(model.parameters(), **settings.sgd)
    timer = EpochTimer(settings, process.device)
    for _ in range(settings.epochs):
        timer.start_epoch()
        for _ in range(settings.steps):
            with precision.autocast():
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels) / world.size  # gradients are summed over ranks
            precision.scaler.scale(loss).backward()
            precision.scaler.step(optimizer)
            precision.scaler.update()
            network.zero_grad()
            timer.step(loss, len(labels))
        timer.end_training()
    timer.write_report()


if __name__ == "__main__":
    run_loop(train)
