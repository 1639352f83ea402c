"""The networks of configs/models have the published sizes, and the layers of timm's and torchvision's."""

import functools

import pytest
import torch
from processes import ROOT

from data.sources.torchvision_datasets import torchvision
from regnet.config.parser import parse_config
from regnet.models.complexity import profile_operators
from regnet.models.regnet import Model, count_parameters

SIZES = ("200mf", "400mf", "600mf", "800mf", "1.6gf", "3.2gf", "4.0gf", "6.4gf", "8.0gf", "12gf", "16gf", "32gf")
NAMES = [f"regnet{letter}_{size}" for letter in "xy" for size in SIZES]
# Millions of parameters and billions of multiply-adds at 224x224, from the tables of Radosavovic et al.
PUBLISHED = dict(
    zip(
        NAMES,
        [
            *[(2.7, 0.2), (5.2, 0.4), (6.2, 0.6), (7.3, 0.8), (9.2, 1.6), (15.3, 3.2)],
            *[(22.1, 4.0), (26.2, 6.5), (39.6, 8.0), (46.1, 12.1), (54.3, 15.9), (107.8, 31.7)],
            *[(3.2, 0.2), (4.3, 0.4), (6.1, 0.6), (6.3, 0.8), (11.2, 1.6), (19.4, 3.2)],
            *[(20.6, 4.0), (30.6, 6.4), (39.2, 8.0), (51.8, 12.1), (83.6, 15.9), (145.0, 32.3)],
        ],
        strict=True,
    )
)
IN_TORCHVISION = [
    f"regnet{letter}_{size}"
    for letter in "xy"
    for size in ("400mf", "800mf", "1.6gf", "3.2gf", "8.0gf", "16gf", "32gf")
]


@functools.cache
def preset(name, *flags):
    """The network on the meta device, which allocates no weights."""
    config = parse_config(["--config", str(ROOT / "configs" / "models" / f"{name}.yaml"), *flags])
    with torch.device("meta"):
        return Model(config.model.design(), classes=1000).eval()


def timm_model(name):
    timm = pytest.importorskip("timm")
    family, size = name.split("_")
    number = size[:-2] if size.endswith("mf") else str(round(1000 * float(size[:-2])))
    with torch.device("meta"):
        return timm.create_model(f"{family}_{int(number) // 100:03d}", num_classes=1000)


@functools.cache
def torchvision_model(name):
    family, size = name.split("_")
    regnet = torchvision.models.regnet
    build = functools.partial(on_meta_device, regnet.RegNet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regnet, "RegNet", build)  # it computes its widths with real tensors
        return getattr(regnet, f"regnet_{family[-1]}_{size.replace('.0', '').replace('.', '_')}")()


def on_meta_device(build, *arguments, **named):
    with torch.device("meta"):
        return build(*arguments, **named)


def shapes(model):
    """Sorted, because the implementations order the layers of a block differently."""
    return sorted(tuple(parameter.shape) for parameter in model.parameters())


def test_there_is_one_preset_file_per_network():
    assert sorted(path.stem for path in (ROOT / "configs" / "models").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_the_published_size(name):
    model = preset(name)
    with torch.device("meta"):
        multiply_adds = sum(operator.multiply_adds for operator in profile_operators(model, 224))
    assert (round(count_parameters(model) / 1e6, 1), round(multiply_adds / 1e9, 1)) == PUBLISHED[name]


def test_presets_with_torchvisions_rounding_have_its_layers():
    for name in IN_TORCHVISION:
        assert shapes(preset(name, "--model.rounding=torchvision")) == shapes(torchvision_model(name)), name


def test_presets_have_timms_layers():
    print(f"\n{'parameters of':16}{'this project':>14}{'timm':>14}{'same rounding':>16}{'torchvision':>14}")
    for name in NAMES:
        theirs = timm_model(name)
        assert shapes(preset(name)) == shapes(theirs), name
        models = [preset(name), theirs]
        if name in IN_TORCHVISION:
            models += [preset(name, "--model.rounding=torchvision"), torchvision_model(name)]
        cells = zip(map(count_parameters, models), (14, 14, 16, 14), strict=False)
        print(f"{name:16}" + "".join(f"{count:{width},}" for count, width in cells))


def test_a_preset_as_a_second_file_replaces_the_model_section_only():
    baseline, network = ROOT / "configs" / "baseline.yaml", ROOT / "configs" / "models" / "regnety_600mf.yaml"
    alone = parse_config(["--config", str(baseline)])
    both = parse_config(["--config", str(baseline), "--config", str(network)])
    other = parse_config(["--config", str(ROOT / "tests" / "tiny.yaml"), "--config", str(network)])
    assert both.model == other.model
    assert both.model.se_ratio == 0.25
    assert (both.name, both.data, both.train, both.optim) == (alone.name, alone.data, alone.train, alone.optim)
