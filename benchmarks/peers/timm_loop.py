"""timm: its loader with the prefetcher, which normalises on the device, its task, optimiser, scaler and evaluator.

timm's training script is not part of the package, so the loop around these components is reimplemented here.
"""

from contextlib import nullcontext
from functools import partial

import torch
from torch.utils.data import DistributedSampler

from benchmarks.images import CROP_PADDING, ImageDataset, StoredImages
from benchmarks.peers.network import peers_network
from benchmarks.peers.process_group import Process, run_loop
from benchmarks.peers.protocol import EpochTimer, Settings
from benchmarks.peers.samples import Samples, loader_options, open_samples
from data.sources.torchvision_datasets import torchvision

# isort: split
from timm.data import create_loader
from timm.data.transforms import MaybePILToTensor
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.task.evaluator import evaluation_sample_limit
from timm.utils import NativeScaler, distribute_bn


def untransformed(images: StoredImages) -> ImageDataset:
    """PIL images; timm's loader replaces the transform."""
    return ImageDataset(images, lambda image: image)


def loaders(samples: Samples, settings: Settings, process: Process):  # type: ignore[no-untyped-def]  # timm's classes
    """timm's loaders, with the padded crop that all trainers use in place of timm's random resized crop."""
    manifest, size = samples.manifest, settings.resolution
    make = partial(
        create_loader,
        input_size=(3, size, size),
        interpolation="bilinear",
        mean=manifest.mean,
        std=manifest.std,
        crop_pct=1.0,
        distributed=process.world_size > 1,
        device=process.device,
        **loader_options(settings, process.world_size),
    )
    train, val = make(untransformed(samples.train), is_training=True), make(untransformed(samples.val))
    transforms = torchvision.transforms
    enlarge = [transforms.Resize(size)] if size != manifest.resolution else []
    crop = transforms.RandomCrop(manifest.resolution, padding=CROP_PADDING)
    train.dataset.transform = transforms.Compose(
        [crop, *enlarge, transforms.RandomHorizontalFlip(), MaybePILToTensor()]
    )
    return train, val


def train(settings: Settings, process: Process) -> None:
    samples = open_samples(settings)
    train_loader, val_loader = loaders(samples, settings, process)
    model = peers_network(settings, samples.classes).to(process.device)
    optimizer = create_optimizer_v2(model, "sgd", filter_bias_and_bn=False, **settings.sgd)
    task = ClassificationTask(model, device=process.device, verbose=False)
    if process.world_size > 1:
        task.prepare_distributed(device_ids=process.device_ids)
    autocast = partial(torch.autocast, settings.device, settings.autocast) if settings.autocast else nullcontext
    scaler = NativeScaler(settings.device) if settings.precision == "fp16" else None

    def evaluate() -> float:
        if process.world_size > 1:
            distribute_bn(model, process.world_size, reduce=True)
        task.eval()
        evaluator = task.create_evaluator(max_samples=evaluation_sample_limit(val_loader))
        with torch.inference_mode():
            for images, labels in val_loader:
                with autocast():
                    output = model(images.contiguous(memory_format=settings.memory_format))
                evaluator.update(output, labels)
        return evaluator.compute(distributed=process.world_size > 1)["top1"] / 100

    timer = EpochTimer(settings, process.device)
    for epoch in range(settings.epochs):
        if isinstance(train_loader.sampler, DistributedSampler):
            train_loader.sampler.set_epoch(epoch)
        task.train()
        timer.start_epoch()
        for images, labels in train_loader:
            images = images.contiguous(memory_format=settings.memory_format)
            with autocast():
                loss = task(images, labels)["loss"]
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler(loss, optimizer)
            optimizer.zero_grad()
            timer.step(loss, len(labels))
        timer.end_training()
        timer.end_evaluation(evaluate())
    timer.write_report()


if __name__ == "__main__":
    run_loop(train)
