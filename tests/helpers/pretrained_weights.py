"""Networks of torchvision with weights other than the defaults, and the weights that are read from their files."""

import torch
from processes import TINY

from data.sources.torchvision_datasets import torchvision
from regnet.checkpoint.pretrained import read_weights
from regnet.config.parser import parse_config
from regnet.models.regnet import Model


def randomise(model):
    """Replaces all parameters and buffers, including BatchNorm's statistics and counters, by non-default values."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            value.fill_(7)
        elif value.ndim == 1 and "bias" not in name:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.ndim == 1:
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


def tiny_torchvision_model(classes=10):
    """A network of the design of tests/tiny.yaml, built by torchvision."""
    design, regnet = parse_config(["--config", str(TINY)]).model.design(), torchvision.models.regnet
    stages = [(stage.depth, stage.width, stage.group_width, 1.0, stage.stride) for stage in design.stages]
    torch.manual_seed(0)
    blocks = regnet.BlockParams(*map(list, zip(*stages, strict=True)))
    return randomise(regnet.RegNet(blocks, num_classes=classes, stem_width=8))


def tiny_config(*flags):
    """The options of the network of tests/tiny.yaml."""
    return parse_config(["--config", str(TINY), *flags]).model


def read_for_tiny(path, classes=10, **options):
    """The weights of a file, read for the network of tests/tiny.yaml with these options."""
    config = tiny_config(f"--model.weights={path}", *(f"--model.{name}={value}" for name, value in options.items()))
    return read_weights(config, Model(config.design(), classes).state_dict())
