"""A plain script as in PyTorch's tutorials: DataLoader, DistributedDataParallel, autocast."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from benchmarks.peers.network import peers_network
from benchmarks.peers.process_group import Process, run_loop
from benchmarks.peers.protocol import EpochTimer, Settings
from benchmarks.peers.samples import loader_options, open_samples
from benchmarks.torch_loader import Transformed


def train(settings: Settings, process: Process) -> None:
    samples = open_samples(settings)
    train_set = Transformed(samples.train, samples.manifest, settings.resolution)
    val_set = Transformed(samples.val, samples.manifest, settings.resolution, training=False)
    options = loader_options(settings, process.world_size)
    train_sampler: DistributedSampler = DistributedSampler(train_set, process.world_size, process.rank)
    train_loader: DataLoader = DataLoader(train_set, sampler=train_sampler, **options)
    val_sampler: DistributedSampler = DistributedSampler(val_set, process.world_size, process.rank, shuffle=False)
    val_loader: DataLoader = DataLoader(val_set, sampler=val_sampler, **options)
    model = peers_network(settings, samples.classes).to(process.device)
    if process.world_size > 1:
        model = DistributedDataParallel(model, process.device_ids, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), **settings.sgd)
    scaler = torch.amp.GradScaler(settings.device, enabled=settings.precision == "fp16")
    timer = EpochTimer(settings, process.device)
    for epoch in range(settings.epochs):
        train_sampler.set_epoch(epoch)
        model.train()
        timer.start_epoch()
        for images, labels in train_loader:
            images = images.to(process.device, memory_format=settings.memory_format, non_blocking=True)
            labels = labels.to(process.device, non_blocking=True)
            with torch.autocast(settings.device, settings.autocast, enabled=settings.autocast is not None):
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            timer.step(loss, len(labels))
        timer.end_training()
        timer.end_evaluation(evaluate(model, val_loader, settings, process))
    timer.write_report()


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader, settings: Settings, process: Process) -> float:
    """Top-1 accuracy. The sampler repeats some images if the ranks' numbers of images would differ."""
    model.eval()
    counts = torch.zeros(2, device=process.device)  # correct predictions, images
    for images, labels in loader:
        images = images.to(process.device, memory_format=settings.memory_format, non_blocking=True)
        labels = labels.to(process.device, non_blocking=True)
        with torch.autocast(settings.device, settings.autocast, enabled=settings.autocast is not None):
            logits = model(images)
        counts[0] += (logits.argmax(1) == labels).sum()
        counts[1] += len(labels)
    counts = process.sum_(counts)
    return (counts[0] / counts[1]).item()


if __name__ == "__main__":
    run_loop(train)
