"""Accelerate: a plain loop with the model, optimiser and loaders from Accelerator.prepare."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.network import peers_network
from benchmarks.peers.protocol import EpochTimer, Settings, run
from benchmarks.peers.samples import loader_options, open_samples
from benchmarks.torch_loader import Transformed

# isort: split
from accelerate import Accelerator  # imports torchvision, which torch_loader must import first
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, set_seed

PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def main(settings: Settings) -> None:
    accelerator = Accelerator(
        cpu=not settings.on_gpu,
        mixed_precision=PRECISION[settings.precision],
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    set_seed(0)
    torch.backends.cudnn.benchmark = True
    samples = open_samples(settings)
    train_set = Transformed(samples.train, samples.manifest, settings.resolution)
    val_set = Transformed(samples.val, samples.manifest, settings.resolution, training=False)
    options = loader_options(settings, accelerator.num_processes)
    model = peers_network(settings, samples.classes)
    optimizer = torch.optim.SGD(model.parameters(), **settings.sgd)
    model, optimizer, train_loader, val_loader = accelerator.prepare(
        model, optimizer, DataLoader(train_set, shuffle=True, **options), DataLoader(val_set, **options)
    )

    @torch.inference_mode()
    def evaluate() -> float:
        model.eval()
        correct, samples_seen = torch.zeros((), device=accelerator.device), 0
        for images, labels in val_loader:
            predicted = model(images.contiguous(memory_format=settings.memory_format)).argmax(1)
            predicted, labels = accelerator.gather_for_metrics((predicted, labels))
            correct += (predicted == labels).sum()
            samples_seen += len(labels)
        return correct.item() / samples_seen

    timer = EpochTimer(settings, accelerator.device)
    for _ in range(settings.epochs):
        model.train()
        timer.start_epoch()
        for images, labels in train_loader:
            loss = F.cross_entropy(model(images.contiguous(memory_format=settings.memory_format)), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            timer.step(loss, len(labels))
        timer.end_training()
        timer.end_evaluation(evaluate())
    timer.write_report()
    accelerator.end_training()


if __name__ == "__main__":
    run(main)
