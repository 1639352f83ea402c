"""Files of pretrained weights: of torchvision, of timm and of this program, and what is wrong with others."""

import pickle
import re
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pretrained_weights import randomise, read_for_tiny, tiny_config, tiny_torchvision_model
from processes import ROOT
from thoroughness import examples

from data.sources.torchvision_datasets import torchvision
from regnet.checkpoint.file import pack
from regnet.checkpoint.load_model import untrained_model
from regnet.checkpoint.pretrained import load_pretrained
from regnet.config.parser import parse_config
from regnet.config.schema import ModelConfig
from regnet.errors import UsageError
from regnet.models.regnet import Model


def torchvision_model(family):
    return randomise(getattr(torchvision.models, f"regnet_{family}_400mf")())


def timm_model(family):
    timm = pytest.importorskip("timm")
    return randomise(timm.create_model(f"regnet{family}_002"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("family", ["x", "y"])
@pytest.mark.parametrize(("library", "size"), [(torchvision_model, "400mf"), (timm_model, "200mf")])
def test_logits_are_bit_identical_to_those_of_other_libraries(tmp_path, library, size, family, suffix):
    original, path = library(family), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(original.state_dict(), path)
    else:
        safetensors.torch.save_file(original.state_dict(), path)
    preset = ROOT / "configs" / "models" / f"regnet{family}_{size}.yaml"
    rounding = "torchvision" if library is torchvision_model else "nearest"
    flags = ["--config", str(preset), f"--model.weights={path}", f"--model.rounding={rounding}"]
    model = untrained_model(flags, 1000).model
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = original(images)
        assert logits.std() > 1e-3
        assert torch.equal(model(images), logits)
    assert model.stem.bn.num_batches_tracked == 7


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(tiny_torchvision_model().state_dict(), path)
    return path


def error_for(path, **options):
    with pytest.raises(UsageError) as caught:
        read_for_tiny(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_new_head_keeps_its_initialisation(weights_file):
    model = Model(tiny_config().design(), classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_pretrained(model, read_for_tiny(weights_file, classes=3, head="new").tensors)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("head."), name


def test_another_number_of_classes_is_an_error_that_names_the_remedy(weights_file):
    assert "it has a classifier of 10 classes, but 3 classes are needed. Use --model.head new" in error_for(
        weights_file, classes=3
    )


NOT_DENSE = "stem.1.bias must be a dense tensor of type torch.float32"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("stem.1.bias"), "holds a different network: stem.1.bias is missing"),
        (lambda weights: weights.pop("fc.weight"), "fc.weight is missing"),
        (lambda weights: weights.pop("fc.bias"), "it has no classifier"),
        (
            lambda weights: weights.pop("stem.0.weight"),
            "not the weights of a RegNet of this program, torchvision, timm",
        ),
        (lambda weights: weights.update({"more.weight": torch.ones(1)}), "unexpected more.weight"),
        (
            lambda weights: weights.update({"stem.1.bias": torch.ones(9)}),
            r"stem.1.bias has shape \(9,\), expected \(8,\)",
        ),
        (lambda weights: weights.update({"stem.1.bias": torch.ones(8).int()}), NOT_DENSE),
        (lambda weights: weights.update({"stem.1.bias": torch.ones(8).to_sparse()}), NOT_DENSE),
        (lambda weights: weights.update({"stem.1.bias": torch.full((8,), torch.nan)}), "stem.1.bias is not finite"),
        (lambda weights: weights.update({"stem.1.bias": 3}), "stem.1.bias is not a tensor of real numbers"),
        (
            lambda weights: weights.update({"stem.1.running_var": torch.full((8,), -1.0)}),
            "stem.1.running_var, a variance, is negative",
        ),
    ],
)
def test_weights_of_another_network_are_an_error_that_names_the_first_difference(weights_file, tmp_path, change, words):
    weights, path = torch.load(weights_file), tmp_path / "changed.pth"
    change(weights)
    torch.save(weights, path)
    assert re.search(words, error_for(path))


def test_the_error_suggests_torchvisions_rounding(tmp_path, weights_file):
    assert "model.rounding torchvision" in error_for(weights_file, depth=2)
    assert "model.rounding" not in error_for(weights_file, depth=2, rounding="torchvision")


def test_batchnorm_counters_may_be_missing(weights_file, tmp_path):
    weights = {name: value for name, value in torch.load(weights_file).items() if "num_batches" not in name}
    path = tmp_path / "without.pth"
    torch.save(weights, path)
    expected = {name: value for name, value in read_for_tiny(weights_file).tensors.items() if value.is_floating_point()}
    found = read_for_tiny(path).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@given(
    length=st.integers(0, 2**20), noise=st.binary(max_size=40), suffix=st.sampled_from([".pth", ".safetensors", ".bin"])
)
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_file_is_a_one_line_error(weights_file, tmp_path, length, noise, suffix):
    content, path = weights_file.read_bytes(), tmp_path / f"noise{suffix}"
    path.write_bytes(noise + content[: length % len(content)])
    assert "\n" not in error_for(path)


@pytest.mark.parametrize("value", [[1, 2], {"state_dict": {}}, {}, "text", torch.ones(2)])
def test_a_file_without_a_state_dict_is_an_error(tmp_path, value):
    path = tmp_path / "other.pth"
    torch.save(value, path)
    error_for(path)
    path.write_bytes(pack({"model": value, "ema": None}))
    error_for(path)
    path.write_bytes(pack({"something": value}))
    assert "incomplete checkpoint ('ema' is missing); use one written by train_ddp.py" in error_for(path)


def test_a_foreign_pickle_is_an_error_without_a_warning(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps([1, 2], protocol=4))
    with warnings.catch_warnings(action="error"):
        assert "Detected pickle" not in error_for(path)


def test_unreadable_and_altered_files_are_errors(weights_file, tmp_path):
    assert "No such file" in error_for(tmp_path / "none.pth")
    assert "directory" in error_for(tmp_path)
    path = tmp_path / "altered.pt"
    path.write_bytes(b"?" + pack({"model": {}, "ema": None})[1:])
    assert "altered since it was written" in error_for(path)


@pytest.mark.parametrize("flag", ["--train.zero_init_residual=true", "--train.init_std=0.1"])
def test_initialisation_options_cannot_be_combined_with_pretrained_weights(weights_file, flag):
    with pytest.raises(UsageError, match=rf"{flag[2:].partition('=')[0]} .* with model\.weights"):
        parse_config([f"--model.weights={weights_file}", flag])


def test_the_design_does_not_depend_on_the_weights():
    assert ModelConfig(weights="some.pth", head="new").design() == ModelConfig().design()
