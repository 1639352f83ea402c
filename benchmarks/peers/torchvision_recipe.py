"""torchvision's reference recipe for classification.

Its script is in no package, so this is written anew from what it is documented to do: transforms of PIL images that
stay bytes until the tensor is made, DistributedSampler, DistributedDataParallel, autocast with a gradient scaler,
meters of loss and accuracy in every step, an evaluation after every epoch. It is kinder than the script: workers stay
from epoch to epoch, and the meters stay on the device, where the script waits for it in every step.
"""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler, SequentialSampler

from benchmarks.images import CROP_PADDING, ImageDataset, StoredImages
from benchmarks.peers.network import peers_network
from benchmarks.peers.place import Place, run_loop
from benchmarks.peers.protocol import Settings, Watch
from benchmarks.peers.samples import loader_options, open_samples
from data.manifest import Manifest
from data.sources.torchvision_datasets import torchvision


class Preset(ImageDataset):
    """The recipe's order of things: crop, flip, then bytes to a tensor, to float32, normalised."""

    def __init__(self, images: StoredImages, manifest: Manifest, resolution: int, training: bool) -> None:
        transforms = torchvision.transforms
        steps = [transforms.Resize(resolution)] if resolution != manifest.resolution else []
        if training:
            crop = transforms.RandomCrop(manifest.resolution, padding=CROP_PADDING)
            steps = [crop, *steps, transforms.RandomHorizontalFlip()]
        as_float = transforms.ConvertImageDtype(torch.float)
        steps += [transforms.PILToTensor(), as_float, transforms.Normalize(manifest.mean, manifest.std)]
        super().__init__(images, transforms.Compose(steps))


def samplers(train: Dataset, val: Dataset, place: Place) -> tuple[Sampler, Sampler]:
    if place.size == 1:
        return RandomSampler(train), SequentialSampler(val)  # type: ignore[arg-type]  # they have lengths
    val_part: DistributedSampler = DistributedSampler(val, place.size, place.rank, shuffle=False)
    return DistributedSampler(train, place.size, place.rank), val_part


class Recipe:
    """Both loops over one network."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self.settings, self.place = settings, place
        samples = open_samples(settings)
        train = Preset(samples.train, samples.manifest, settings.resolution, training=True)
        val = Preset(samples.val, samples.manifest, settings.resolution, training=False)
        self.train_order, val_order = samplers(train, val, place)
        options = loader_options(settings, place.size)
        self.train_loader: DataLoader = DataLoader(train, sampler=self.train_order, **options)
        self.val_loader: DataLoader = DataLoader(val, sampler=val_order, **options)
        self.model = peers_network(settings, samples.classes).to(place.device)
        if place.size > 1:
            self.model = DistributedDataParallel(self.model, place.device_ids)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), **settings.sgd)
        self.scaler = torch.amp.GradScaler(settings.device) if settings.precision == "fp16" else None
        self.accuracy = torch.zeros(2, device=place.device)  # top-1 and top-5, of the epoch under way

    def train_epoch(self, epoch: int, watch: Watch) -> None:
        if isinstance(self.train_order, DistributedSampler):
            self.train_order.set_epoch(epoch)
        self.model.train()
        watch.begin()
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
            self.accuracy += right(output, labels)
            watch.step(loss, len(labels))
        watch.trained()

    @torch.inference_mode()
    def evaluate(self) -> float:
        self.model.eval()
        self.accuracy.zero_()
        seen = torch.zeros((), device=self.place.device)
        for batch in self.val_loader:
            images, labels = self.on_device(*batch)
            with self.autocast():
                output = self.model(images)
                self.criterion(output, labels)
            self.accuracy += right(output, labels)
            seen += len(labels)
        top1 = self.place.sum_(self.accuracy.clone())[0] / self.place.sum_(seen)
        self.accuracy.zero_()
        return top1.item()

    def on_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.place.device, memory_format=self.settings.memory_format, non_blocking=True)
        return images, labels.to(self.place.device, non_blocking=True)

    def autocast(self) -> torch.autocast:
        dtype = self.settings.autocast
        return torch.autocast(self.settings.device, dtype, enabled=dtype is not None)


@torch.inference_mode()
def right(output: Tensor, labels: Tensor) -> Tensor:
    """float32 (2,): how many labels are the first, and among the first five."""
    hits = output.topk(min(5, output.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([hits[:, 0].sum(), hits.sum()]).float()


def train(settings: Settings, place: Place) -> None:
    recipe = Recipe(settings, place)
    watch = Watch(settings, place.device)
    for epoch in range(settings.epochs):
        recipe.train_epoch(epoch, watch)
        watch.evaluated(recipe.evaluate())
    watch.finished()


if __name__ == "__main__":
    run_loop(train)
