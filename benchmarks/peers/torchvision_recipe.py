"""torchvision's reference recipe for classification.

The script is not part of the package, so it is reimplemented here from its documentation: transforms on PIL images
that stay uint8 until the conversion to a tensor, DistributedSampler, DistributedDataParallel, autocast with a gradient
scaler, loss and accuracy meters in every step, an evaluation after every epoch. Two things make it faster than the
script: workers persist between epochs, and the meters stay on the device, whereas the script synchronises every step.
"""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler, SequentialSampler

from benchmarks.images import CROP_PADDING, ImageDataset, StoredImages
from benchmarks.peers.network import peers_network
from benchmarks.peers.process_group import Process, run_loop
from benchmarks.peers.protocol import EpochTimer, Settings
from benchmarks.peers.samples import loader_options, open_samples
from data.manifest import Manifest
from data.sources.torchvision_datasets import torchvision


class Preset(ImageDataset):
    """Transforms in the recipe's order: crop, flip, conversion to a uint8 tensor, to float32, normalisation."""

    def __init__(self, images: StoredImages, manifest: Manifest, resolution: int, training: bool) -> None:
        transforms = torchvision.transforms
        steps = [transforms.Resize(resolution)] if resolution != manifest.resolution else []
        if training:
            crop = transforms.RandomCrop(manifest.resolution, padding=CROP_PADDING)
            steps = [crop, *steps, transforms.RandomHorizontalFlip()]
        as_float = transforms.ConvertImageDtype(torch.float)
        steps += [transforms.PILToTensor(), as_float, transforms.Normalize(manifest.mean, manifest.std)]
        super().__init__(images, transforms.Compose(steps))


def samplers(train: Dataset, val: Dataset, process: Process) -> tuple[Sampler, Sampler]:
    if process.world_size == 1:
        return RandomSampler(train), SequentialSampler(val)  # type: ignore[arg-type]  # both have a length
    val_sampler: DistributedSampler = DistributedSampler(val, process.world_size, process.rank, shuffle=False)
    return DistributedSampler(train, process.world_size, process.rank), val_sampler


class Recipe:
    """The training and evaluation loops."""

    def __init__(self, settings: Settings, process: Process) -> None:
        self.settings, self.process = settings, process
        samples = open_samples(settings)
        train = Preset(samples.train, samples.manifest, settings.resolution, training=True)
        val = Preset(samples.val, samples.manifest, settings.resolution, training=False)
        self.train_sampler, val_sampler = samplers(train, val, process)
        options = loader_options(settings, process.world_size)
        self.train_loader: DataLoader = DataLoader(train, sampler=self.train_sampler, **options)
        self.val_loader: DataLoader = DataLoader(val, sampler=val_sampler, **options)
        self.model = peers_network(settings, samples.classes).to(process.device)
        if process.world_size > 1:
            self.model = DistributedDataParallel(self.model, process.device_ids)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), **settings.sgd)
        self.scaler = torch.amp.GradScaler(settings.device) if settings.precision == "fp16" else None
        self.accuracy = torch.zeros(2, device=process.device)  # correct top-1 and top-5 predictions

    def train_epoch(self, epoch: int, timer: EpochTimer) -> None:
        if isinstance(self.train_sampler, DistributedSampler):
            self.train_sampler.set_epoch(epoch)
        self.model.train()
        timer.start_epoch()
        for batch in self.train_loader:
            images, labels = self.on_device(*batch)
            with self.autocast():
                output = self.model(images)
                loss = self.criterion(output, labels)
            self.optimizer.zero_grad()
            if self.scaler is None:
                loss.backward()
                self.optimizer.step()
            else:
                self.scaler.scale(loss).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
            self.accuracy += count_correct(output, labels)
            timer.step(loss, len(labels))
        timer.end_training()

    @torch.inference_mode()
    def evaluate(self) -> float:
        self.model.eval()
        self.accuracy.zero_()
        images_seen = torch.zeros((), device=self.process.device)
        for batch in self.val_loader:
            images, labels = self.on_device(*batch)
            with self.autocast():
                output = self.model(images)
                self.criterion(output, labels)
            self.accuracy += count_correct(output, labels)
            images_seen += len(labels)
        top1 = self.process.sum_(self.accuracy.clone())[0] / self.process.sum_(images_seen)
        self.accuracy.zero_()
        return top1.item()

    def on_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.process.device, memory_format=self.settings.memory_format, non_blocking=True)
        return images, labels.to(self.process.device, non_blocking=True)

    def autocast(self) -> torch.autocast:
        dtype = self.settings.autocast
        return torch.autocast(self.settings.device, dtype, enabled=dtype is not None)


@torch.inference_mode()
def count_correct(output: Tensor, labels: Tensor) -> Tensor:
    """float32 (2,): numbers of correct top-1 and top-5 predictions."""
    hits = output.topk(min(5, output.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([hits[:, 0].sum(), hits.sum()]).float()


def train(settings: Settings, process: Process) -> None:
    recipe = Recipe(settings, process)
    timer = EpochTimer(settings, process.device)
    for epoch in range(settings.epochs):
        recipe.train_epoch(epoch, timer)
        timer.end_evaluation(recipe.evaluate())
    timer.write_report()


if __name__ == "__main__":
    run_loop(train)
