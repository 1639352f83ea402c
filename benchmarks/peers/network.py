"""The model that all trainers train."""

from torch import nn

from benchmarks.peers.protocol import Settings
from regnet.config.schema import ModelConfig
from regnet.models.complexity import profile_operators
from regnet.models.regnet import Model, count_parameters

# The published design parameters; timm's model of this name has parameters of the same shapes.
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


class ModelMismatchError(Exception):
    """A trainer would train a different model than this trainer."""


def our_network(settings: Settings, classes: int) -> nn.Module:
    """This project's model, on the CPU, in the requested memory format."""
    return _checked(Model(ModelConfig(**settings.design).design(), classes), settings)


def peers_network(settings: Settings, classes: int) -> nn.Module:
    """The other trainers' model, on the CPU: the same as `our_network`, or timm's implementation of it."""
    if settings.network == "ours":
        return our_network(settings, classes)
    import data.sources.torchvision_datasets  # noqa: F401  # must come before timm, which imports torchvision

    # isort: split
    from timm import create_model

    return _checked(create_model(settings.network, num_classes=classes), settings)


def _checked(network: nn.Module, settings: Settings) -> nn.Module:
    actual = measures(network, settings.resolution)
    if actual != settings.measures:
        raise ModelMismatchError(f"the model has {actual} instead of {settings.measures}")
    return network.to(memory_format=settings.memory_format)  # type: ignore[call-overload]  # missing in its stub


def measures(network: nn.Module, resolution: int) -> dict[str, int]:
    """Numbers that differ between different models: size, and cost for one image. Sets the model to training mode."""
    multiply_adds = sum(operator.multiply_adds for operator in profile_operators(network.eval(), resolution))
    network.train()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return {"parameters": count_parameters(network), "norms": norms, "multiply_adds": multiply_adds}
