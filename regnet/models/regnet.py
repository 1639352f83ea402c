"""RegNetX and RegNetY: Model(stem, body, head), with the module names of the original one-GPU program.

Source: Radosavovic et al., Designing Network Design Spaces (2020), section 3 and figure 4 (X block), section 5 (Y).
`Variant` in regnet.models.design_space describes the two supported variants.
"""

import hashlib
from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regnet.models.batchnorm import BatchNorm2d, count_batches
from regnet.models.design_space import Design


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU: (N, in, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv_3x3 = nn.Conv2d(in_width, out_width, 3, stride, padding=1, bias=False)
        self.bn = BatchNorm2d(out_width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv_3x3(x)), inplace=True)


class Downsample(nn.Module):
    """Projection shortcut of blocks that change the shape: 1x1 convolution, BatchNorm."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv_1x1 = nn.Conv2d(in_width, out_width, 1, stride, bias=False)
        self.bn = BatchNorm2d(out_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv_1x1(x))


class SqueezeExcitation(nn.Module):
    """Channel attention: scales each channel by a gate computed from the means of all channels; keeps the shape.

    Source: Hu et al., Squeeze-and-Excitation Networks (2018), section 3.
    """

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv1_1x1 = nn.Conv2d(width, inner_width, 1)
        self.conv2_1x1 = nn.Conv2d(inner_width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.relu(self.conv1_1x1(self.avg_pool(x)), inplace=True)
        return x * self.conv2_1x1(squeezed).sigmoid()


class XBlock(nn.Module):
    """Residual bottleneck block, 1x1, grouped 3x3, 1x1: (N, in, H, W) -> (N, out, H / stride, W / stride).

    With squeeze-and-excitation after the 3x3 it is the Y block of RegNetY.

    Args:
        se_width: inner channels of squeeze-and-excitation; 0 for none.

    Attributes:
        drop_path_rate: probability that a sample skips the residual branch in training (stochastic depth); see
            `set_drop_path_rates`.
    """

    drop_path_rate = 0.0

    def __init__(
        self, in_width: int, inner_width: int, out_width: int, stride: int, group_width: int, se_width: int = 0
    ) -> None:
        super().__init__()
        self.conv1_1x1 = nn.Conv2d(in_width, inner_width, 1, bias=False)
        self.bn1 = BatchNorm2d(inner_width)
        groups = inner_width // group_width
        self.conv2_3x3 = nn.Conv2d(inner_width, inner_width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = BatchNorm2d(inner_width)
        self.se = SqueezeExcitation(inner_width, se_width) if se_width else None
        self.conv3_1x1 = nn.Conv2d(inner_width, out_width, 1, bias=False)
        self.bn3 = BatchNorm2d(out_width)
        changes_shape = stride != 1 or in_width != out_width
        self.downsample = Downsample(in_width, out_width, stride) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1_1x1(x)), inplace=True)
        residual = F.relu(self.bn2(self.conv2_3x3(residual)), inplace=True)
        if self.se is not None:
            residual = self.se(residual)
        residual = self.bn3(self.conv3_1x1(residual))
        if self.training and self.drop_path_rate:
            keep = torch.rand((len(x), 1, 1, 1), device=x.device) >= self.drop_path_rate
            residual = residual * (keep / (1 - self.drop_path_rate)).to(residual.dtype)
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(residual + shortcut, inplace=True)


class Layer(nn.Module):
    """One stage: blocks of the same width, the first of which may halve the resolution."""

    def __init__(self, blocks: list[XBlock]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Head(nn.Module):
    """Global average pooling and a linear classifier: (N, C, H, W) -> logits (N, classes)."""

    def __init__(self, in_width: int, classes: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.f_out = nn.Linear(in_width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.f_out(self.avg_pool(x).flatten(1))


class Model(nn.Sequential):
    """RegNetX or RegNetY: normalised float images (N, 3, H, W) -> logits (N, classes)."""

    backbone_is_frozen = False  # see `freeze_backbone`
    stem: Stem
    body: nn.Sequential
    head: Head

    def __init__(self, design: Design, classes: int, channels: int = 3) -> None:
        layers, in_width = [], design.stem_width
        for stage in design.stages:
            blocks = []
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                inner = design.inner_width(in_width, stage.width)
                se_width = design.se_width(in_width)
                blocks.append(XBlock(in_width, inner, stage.width, stride, stage.group_width, se_width))
                in_width = stage.width
            layers.append(Layer(blocks))
        super().__init__(
            OrderedDict(
                stem=Stem(channels, design.stem_width, design.stem_stride),
                body=nn.Sequential(*layers),
                head=Head(in_width, classes),
            )
        )

    def train(self, mode: bool = True) -> "Model":
        """Sets the mode; a frozen backbone stays in evaluation mode, so BatchNorm keeps its running statistics."""
        super().train(mode)
        if self.backbone_is_frozen:
            self.stem.eval()
            self.body.eval()
        return self

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            count_batches(self)
        return super().forward(input)

    @property
    def blocks(self) -> list[XBlock]:
        """All blocks, in order from the stem to the head."""
        return cast(list[XBlock], [block for layer in self.body for block in cast(Layer, layer).layers])


def set_drop_path_rates(model: Model, rate: float) -> None:
    """Sets the drop-path rate of every block, increasing linearly with depth to `rate` in the last one.

    Source: Huang et al., Deep Networks with Stochastic Depth (2016), section 3, but applied per sample.
    """
    for index, block in enumerate(model.blocks, start=1):
        block.drop_path_rate = rate * index / len(model.blocks)


def initialize_weights(model: Model, std: float, zero_init_residual: bool) -> None:
    """Initialises a network that still has PyTorch's default initialisation.

    Args:
        std: standard deviation of convolution and classifier weights, with zero biases; 0 keeps PyTorch's defaults.
        zero_init_residual: zero the weight of the last BatchNorm in each block, so that the block starts as its
            shortcut. Source: Goyal et al., Accurate, Large Minibatch SGD (2017), section 5.1.
    """
    if std:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    if zero_init_residual:
        for block in model.blocks:
            nn.init.zeros_(block.bn3.weight)


def freeze_backbone(model: Model) -> None:
    """Excludes the weights of stem and body from training, and their BatchNorm statistics: see `Model.train`."""
    for module in (model.stem, model.body):
        module.requires_grad_(False)
    model.backbone_is_frozen = True


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters, optionally without frozen ones."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable_only)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers: equal if and only if two models are bit-identical."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
