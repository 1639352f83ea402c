"""Accelerate: a plain loop over what Accelerator.prepare makes of the network, the optimiser and the loaders."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.network import peers_network
from benchmarks.peers.protocol import Settings, Watch, run
from benchmarks.peers.samples import loader_options, open_samples
from benchmarks.torch_loader import Transformed

# isort: split
from accelerate import Accelerator  # after torch_loader, which knows how to import torchvision, as this does
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
    network = peers_network(settings, samples.classes)
    optimizer = torch.optim.SGD(network.parameters(), **settings.sgd)
    network, optimizer, train_loader, val_loader = accelerator.prepare(
        network, optimizer, DataLoader(train_set, shuffle=True, **options), DataLoader(val_set, **options)
    )

    @torch.inference_mode()
    def evaluate() -> float:
        network.eval()
        right, seen = torch.zeros((), device=accelerator.device), 0
        for images, labels in val_loader:
            predicted = network(images.contiguous(memory_format=settings.memory_format)).argmax(1)
            predicted, labels = accelerator.gather_for_metrics((predicted, labels))
            right += (predicted == labels).sum()
            seen += len(labels)
        return right.item() / seen

    watch = Watch(settings, accelerator.device)
    for _ in range(settings.epochs):
        network.train()
        watch.begin()
        for images, labels in train_loader:
            loss = F.cross_entropy(network(images.contiguous(memory_format=settings.memory_format)), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            watch.step(loss, len(labels))
        watch.trained()
        watch.evaluated(evaluate())
    watch.finished()
    accelerator.end_training()


if __name__ == "__main__":
    run(main)
