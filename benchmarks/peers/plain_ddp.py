"""A plain script: DataLoader, DistributedDataParallel, autocast, as PyTorch's tutorials put them together."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from benchmarks.peers.network import peers_network
from benchmarks.peers.place import Place, run_loop
from benchmarks.peers.protocol import Settings, Watch
from benchmarks.peers.samples import loader_options, open_samples
from benchmarks.torch_loader import Transformed


def train(settings: Settings, place: Place) -> None:
    samples = open_samples(settings)
    train_set = Transformed(samples.train, samples.manifest, settings.resolution)
    val_set = Transformed(samples.val, samples.manifest, settings.resolution, training=False)
    options = loader_options(settings, place.size)
    order: DistributedSampler = DistributedSampler(train_set, place.size, place.rank)
    train_loader: DataLoader = DataLoader(train_set, sampler=order, **options)
    part: DistributedSampler = DistributedSampler(val_set, place.size, place.rank, shuffle=False)
    val_loader: DataLoader = DataLoader(val_set, sampler=part, **options)
    network = peers_network(settings, samples.classes).to(place.device)
    if place.size > 1:
        network = DistributedDataParallel(network, place.device_ids, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(network.parameters(), **settings.sgd)
    scaler = torch.amp.GradScaler(settings.device, enabled=settings.precision == "fp16")
    watch = Watch(settings, place.device)
    for epoch in range(settings.epochs):
        order.set_epoch(epoch)
        network.train()
        watch.begin()
        for images, labels in train_loader:
            images = images.to(place.device, memory_format=settings.memory_format, non_blocking=True)
            labels = labels.to(place.device, non_blocking=True)
            with torch.autocast(settings.device, settings.autocast, enabled=settings.autocast is not None):
                loss = F.cross_entropy(network(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            watch.step(loss, len(labels))
        watch.trained()
        watch.evaluated(evaluate(network, val_loader, settings, place))
    watch.finished()


@torch.inference_mode()
def evaluate(network: nn.Module, loader: DataLoader, settings: Settings, place: Place) -> float:
    """The share of right answers; where ranks get unequal numbers of images, the sampler repeats some."""
    network.eval()
    right = torch.zeros(2, device=place.device)  # and all
    for images, labels in loader:
        images = images.to(place.device, memory_format=settings.memory_format, non_blocking=True)
        labels = labels.to(place.device, non_blocking=True)
        with torch.autocast(settings.device, settings.autocast, enabled=settings.autocast is not None):
            logits = network(images)
        right[0] += (logits.argmax(1) == labels).sum()
        right[1] += len(labels)
    right = place.sum_(right)
    return (right[0] / right[1]).item()


if __name__ == "__main__":
    run_loop(train)
