"""PyTorch Lightning: a LightningModule and Trainer.fit, with the settings that its performance guide recommends."""

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.network import peers_network
from benchmarks.peers.protocol import EpochTimer, Settings, run
from benchmarks.peers.samples import loader_options, open_samples
from benchmarks.torch_loader import Transformed

# isort: split
import lightning  # imports torchvision, which torch_loader must import first
from lightning.pytorch.strategies import DDPStrategy
from torchmetrics.classification import MulticlassAccuracy

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class LightningClassifier(lightning.LightningModule):
    """The model with its loss and optimiser."""

    def __init__(self, settings: Settings, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.model = peers_network(settings, classes)
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=self.settings.memory_format))

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


class TimerCallback(lightning.Callback):
    """Reports progress to the timer. Lightning's epochs include the evaluation, so training ends with the last step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.timer: EpochTimer

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.timer = EpochTimer(self.settings, module.device)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.timer.start_epoch()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.timer.step(outputs["loss"], len(batch[1]))
        if index + 1 == trainer.num_training_batches:
            self.timer.end_training()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.timer.end_evaluation(float(trainer.callback_metrics["accuracy"]))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.timer.write_report()


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
        # Disables extra work that the other trainers do not do. Lightning adds distributed samplers by itself.
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TimerCallback(settings)],
    )
    train_loader: DataLoader = DataLoader(train, shuffle=True, **options)
    val_loader: DataLoader = DataLoader(val, **options)
    trainer.fit(LightningClassifier(settings, samples.classes), train_loader, val_loader)


if __name__ == "__main__":
    run(main)
