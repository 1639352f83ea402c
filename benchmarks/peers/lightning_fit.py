"""PyTorch Lightning: a LightningModule and Trainer.fit, with the settings that its guide to speed recommends."""

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.network import peers_network
from benchmarks.peers.protocol import Settings, Watch, run
from benchmarks.peers.samples import loader_options, open_samples
from benchmarks.torch_loader import Transformed

# isort: split
import lightning  # after torch_loader, which knows how to import torchvision, as this does
from lightning.pytorch.strategies import DDPStrategy
from torchmetrics.classification import MulticlassAccuracy

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Classifier(lightning.LightningModule):
    """The network, its loss and its optimiser."""

    def __init__(self, settings: Settings, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.network = peers_network(settings, classes)
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.contiguous(memory_format=self.settings.memory_format))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.settings
        return torch.optim.SGD(self.parameters(), **settings.sgd)


class Watched(lightning.Callback):
    """Tells the watch where the loop is. Its epoch ends after the evaluation; training ends with the last step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.watch: Watch

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.watch = Watch(self.settings, module.device)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.watch.begin()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.watch.step(outputs["loss"], len(batch[1]))
        if index + 1 == trainer.num_training_batches:
            self.watch.trained()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.watch.evaluated(float(trainer.callback_metrics["accuracy"]))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.watch.finished()


def main(settings: Settings) -> None:
    processes = int(os.environ["WORLD_SIZE"])
    lightning.seed_everything(0, verbose=False)
    samples = open_samples(settings)
    train = Transformed(samples.train, samples.manifest, settings.resolution)
    val = Transformed(samples.val, samples.manifest, settings.resolution, training=False)
    options = loader_options(settings, processes)
    trainer = lightning.Trainer(
        accelerator="gpu" if settings.on_gpu else "cpu",
        devices=processes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if processes > 1 else "auto",
        precision=PRECISION[settings.precision],
        max_epochs=settings.epochs,
        benchmark=True,
        # What costs time and is not asked for. Samplers for several processes it adds by itself.
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watched(settings)],
    )
    train_loader: DataLoader = DataLoader(train, shuffle=True, **options)
    val_loader: DataLoader = DataLoader(val, **options)
    trainer.fit(Classifier(settings, samples.classes), train_loader, val_loader)


if __name__ == "__main__":
    run(main)
