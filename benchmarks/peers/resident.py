"""The ceiling: this trainer's network and step on one batch that stays on the device. It loads and tests nothing."""

import torch
from torch.nn import functional as F

from benchmarks.peers.network import our_network
from benchmarks.peers.place import Place, run_loop
from benchmarks.peers.protocol import Settings, Watch
from benchmarks.peers.samples import open_samples
from data.augment.image_transforms import Augment
from regnet.distributed.gradients import wrap_ddp
from regnet.distributed.world import World
from regnet.training.amp import Precision
from regnet.training.torch_setup import keep_freed_memory


def train(settings: Settings, place: Place) -> None:
    if place.device.type == "cpu":
        keep_freed_memory()
    samples = open_samples(settings)
    manifest, size = samples.manifest, settings.batch_size // place.size
    first = place.rank * size
    pixels = torch.from_numpy(samples.train.pixels[first : first + size].copy()).to(place.device)
    augment = Augment(manifest.mean, manifest.std, settings.resolution, place.device)
    images = augment.evaluation(pixels).contiguous(memory_format=settings.memory_format)
    labels = torch.tensor(samples.train.labels[first : first + size], device=place.device)
    world = World(place.rank, place.size, place.local_rank, place.device, control=None, heartbeat=None)
    network = wrap_ddp(our_network(settings, samples.classes).to(place.device), world, deterministic=False)
    optimizer = torch.optim.SGD(network.parameters(), **settings.sgd)
    precision = Precision(settings.precision, place.device)
    watch = Watch(settings, place.device)
    for _ in range(settings.epochs):
        watch.begin()
        for _ in range(settings.steps):
            with precision.autocast():
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels)
            precision.scaler.scale(loss).backward()
            precision.scaler.step(optimizer)
            precision.scaler.update()
            optimizer.zero_grad(set_to_none=True)
            watch.step(loss, len(labels))
        watch.trained()
    watch.finished()


if __name__ == "__main__":
    run_loop(train)
