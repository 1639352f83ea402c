"""The network that all peers train."""

from torch import nn

from benchmarks.peers.protocol import Settings
from regnet.design import generate_design
from regnet.model import Model

# Its published design parameters; timm's network of this name has tensors of the very same shapes.
REGNETX_002 = {
    "form": "paper",
    "depth": 13,
    "initial_width": 24,
    "slope": 36.44,
    "quantization": 2.49,
    "bottleneck_ratio": 1.0,
    "group_width": 8,
    "stem_width": 32,
}


def our_network(settings: Settings, classes: int) -> nn.Module:
    """On the CPU, in the memory format that is asked for, as the peers' network is too."""
    model = Model(generate_design(**settings.design), classes)
    return model.to(memory_format=settings.memory_format)  # type: ignore[call-overload]  # missing in its stub


def peers_network(settings: Settings, classes: int) -> nn.Module:
    """What the peers train: the same network, or timm's own implementation where it has one."""
    if settings.network == "ours":
        return our_network(settings, classes)
    import data.vision  # noqa: F401  # before timm, which imports torchvision

    # isort: split
    from timm import create_model

    return create_model(settings.network, num_classes=classes).to(memory_format=settings.memory_format)
