"""The network that all peers train."""

from torch import nn

from benchmarks.peers.protocol import Settings
from regnet.config.schema import ModelConfig
from regnet.models.complexity import profile_operators
from regnet.models.regnet import Model, count_parameters

# Its published design parameters; timm's network of this name has tensors of the very same shapes.
REGNETX_002 = {
    "variant": "paper",
    "depth": 13,
    "w_0": 24,
    "w_a": 36.44,
    "w_m": 2.49,
    "bottleneck_ratio": 1.0,
    "group_width": 8,
    "stem_width": 32,
}


class AnotherNetworkError(Exception):
    """A peer would train something else than this trainer."""


def our_network(settings: Settings, classes: int) -> nn.Module:
    """On the CPU, in the memory format that is asked for, as the peers' network is too."""
    return _checked(Model(ModelConfig(**settings.design).design(), classes), settings)


def peers_network(settings: Settings, classes: int) -> nn.Module:
    """What the peers train: the same network, or timm's own implementation where it has one."""
    if settings.network == "ours":
        return our_network(settings, classes)
    import data.sources.torchvision_datasets  # noqa: F401  # before timm, which imports torchvision

    # isort: split
    from timm import create_model

    return _checked(create_model(settings.network, num_classes=classes), settings)


def _checked(network: nn.Module, settings: Settings) -> nn.Module:
    found = measures(network, settings.resolution)
    if found != settings.measures:
        raise AnotherNetworkError(f"{found} instead of {settings.measures}")
    return network.to(memory_format=settings.memory_format)  # type: ignore[call-overload]  # missing in its stub


def measures(network: nn.Module, resolution: int) -> dict[str, int]:
    """What tells another network: how large it is, and what it costs for one image. It is left in training mode."""
    found = sum(operator.multiply_adds for operator in profile_operators(network.eval(), resolution))
    network.train()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return {"parameters": count_parameters(network), "norms": norms, "multiply_adds": found}
