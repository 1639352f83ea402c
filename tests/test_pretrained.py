"""Pretrained weights: of torchvision, of timm, and of other runs."""

import pickle
import re
import shutil
import warnings

import pytest
import safetensors.torch
import torch
from fork_server import ForkedCommand
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from processes import ROOT, run, trainer
from run_directory import result, rows
from thoroughness import examples

from data.manifest import read_manifest
from data.sources.torchvision_datasets import torchvision
from regnet.checkpoint.file import load, pack
from regnet.checkpoint.load_model import untrained_model
from regnet.checkpoint.manager import CheckpointManager
from regnet.checkpoint.pretrained import load_pretrained, read_weights
from regnet.config.parser import parse_config
from regnet.config.schema import ModelConfig
from regnet.doctor.requirements import check_weights
from regnet.errors import UsageError
from regnet.models.regnet import Model

TINY = ROOT / "tests" / "tiny.yaml"
ONE_EPOCH = ("--train.epochs", "1", "--schedule.warmup_epochs", "0", "--train.max_steps_per_epoch", "2")


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


def torchvision_model(family):
    return randomise(getattr(torchvision.models, f"regnet_{family}_400mf")())


def timm_model(family):
    timm = pytest.importorskip("timm")
    return randomise(timm.create_model(f"regnet{family}_002"))


def tiny_torchvision_model(classes=10):
    """A network of the design of tests/tiny.yaml, built by torchvision."""
    design, regnet = parse_config(["--config", str(TINY)]).model.design(), torchvision.models.regnet
    stages = [(stage.depth, stage.width, stage.group_width, 1.0, stage.stride) for stage in design.stages]
    torch.manual_seed(0)
    blocks = regnet.BlockParams(*map(list, zip(*stages, strict=True)))
    return randomise(regnet.RegNet(blocks, num_classes=classes, stem_width=8))


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


def tiny(*flags):
    return parse_config(["--config", str(TINY), *flags]).model


def read(path, classes=10, **options):
    config = tiny(f"--model.weights={path}", *(f"--model.{name}={value}" for name, value in options.items()))
    return read_weights(config, Model(config.design(), classes).state_dict())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(tiny_torchvision_model().state_dict(), path)
    return path


def error_for(path, **options):
    with pytest.raises(UsageError) as caught:
        read(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_new_head_keeps_its_initialisation(file):
    model = Model(tiny().design(), classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_pretrained(model, read(file, classes=3, head="new").tensors)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("head."), name


def test_another_number_of_classes_is_an_error_that_names_the_remedy(file):
    assert "it has a classifier of 10 classes, but 3 classes are needed. Use --model.head new" in error_for(
        file, classes=3
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
def test_weights_of_another_network_are_an_error_that_names_the_first_difference(file, tmp_path, change, words):
    weights, path = torch.load(file), tmp_path / "changed.pth"
    change(weights)
    torch.save(weights, path)
    assert re.search(words, error_for(path))


def test_the_error_suggests_torchvisions_rounding(tmp_path, file):
    assert "model.rounding torchvision" in error_for(file, depth=2)
    assert "model.rounding" not in error_for(file, depth=2, rounding="torchvision")


def test_batchnorm_counters_may_be_missing(file, tmp_path):
    weights = {name: value for name, value in torch.load(file).items() if "num_batches" not in name}
    path = tmp_path / "without.pth"
    torch.save(weights, path)
    expected = {name: value for name, value in read(file).tensors.items() if value.is_floating_point()}
    found = read(path).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@given(
    length=st.integers(0, 2**20), noise=st.binary(max_size=40), suffix=st.sampled_from([".pth", ".safetensors", ".bin"])
)
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_file_is_a_one_line_error(file, tmp_path, length, noise, suffix):
    content, path = file.read_bytes(), tmp_path / f"noise{suffix}"
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


def test_unreadable_and_altered_files_are_errors(file, tmp_path):
    assert "No such file" in error_for(tmp_path / "none.pth")
    assert "directory" in error_for(tmp_path)
    path = tmp_path / "altered.pt"
    path.write_bytes(b"?" + pack({"model": {}, "ema": None})[1:])
    assert "altered since it was written" in error_for(path)


@pytest.mark.parametrize("flag", ["--train.zero_init_residual=true", "--train.init_std=0.1"])
def test_initialisation_options_cannot_be_combined_with_pretrained_weights(file, flag):
    with pytest.raises(UsageError, match=rf"{flag[2:].partition('=')[0]} .* with model\.weights"):
        parse_config([f"--model.weights={file}", flag])


def test_the_design_does_not_depend_on_the_weights():
    assert ModelConfig(weights="some.pth", head="new").design() == ModelConfig().design()


@pytest.mark.parametrize("processes", [0, 2])
def test_a_run_starts_from_weights_and_resumes_without_the_file(shards, file, tmp_path, processes):
    """Steps at a negligible learning rate leave the weights unchanged."""
    copy = tmp_path / "weights.pth"
    shutil.copy(file, copy)
    flags = ("--model.weights", str(copy), "--model.head", "new", "--optim.ema_decay", "0.9", *ONE_EPOCH)
    no_change = ("--optim.name", "sgd", "--optim.lr", "1e-30", "--schedule.start_lr", "0", "--schedule.min_lr", "0")
    command = trainer(tmp_path, shards, *flags, *no_change, "--schedule.name", "baseline", processes=processes)
    done = run(command)
    assert done.returncode == 0, done.stderr
    expected = read(file, classes=100, head="new").tensors
    assert done.stdout.count(f"Starting from {copy}: ") == 1
    assert "of torchvision; the head is newly initialised" in done.stdout
    saved = load(CheckpointManager(tmp_path / "tiny" / "checkpoints", 1).paths()[-1])
    for name, value in expected.items():
        if "running" not in name and value.is_floating_point():
            assert torch.equal(saved["model"][name], value), name
            torch.testing.assert_close(saved["ema"][f"module.{name}"], value)
    copy.unlink()
    longer = trainer(tmp_path, shards, *flags, *no_change, "--schedule.name", "baseline", "--train.epochs", "2")
    done = run(longer)
    assert done.returncode == 0, done.stderr
    assert "Resuming from" in done.stdout
    assert "Starting from" not in done.stdout
    assert len(rows(tmp_path / "tiny", "epoch")) == 2


def test_a_run_starts_from_the_ema_weights_of_another(shards, tmp_path):
    first = run(trainer(tmp_path / "first", shards, "--optim.ema_decay", "0.9", *ONE_EPOCH))
    assert first.returncode == 0, first.stderr
    checkpoint = CheckpointManager(tmp_path / "first" / "tiny" / "checkpoints", 1).paths()[-1]
    saved, found = load(checkpoint), read(checkpoint, classes=100)
    assert "this program" in found.description
    assert found.tensors.keys() == saved["model"].keys()
    assert all(torch.equal(value, saved["ema"][f"module.{name}"]) for name, value in found.tensors.items())
    assert not torch.equal(found.tensors["head.f_out.weight"], saved["model"]["head.f_out.weight"])
    second = run(trainer(tmp_path / "second", shards, "--model.weights", str(checkpoint), *ONE_EPOCH))
    assert second.returncode == 0, second.stderr
    assert result(tmp_path / "second" / "tiny")["epochs"] == 1


def test_unusable_weights_are_a_one_line_error_and_the_run_can_be_started_again(shards, file, tmp_path):
    """Also with another number of epochs, which a cosine schedule depends on."""
    wrong = run(trainer(tmp_path, shards, "--model.weights", str(file), "--train.epochs", "4", processes=2))
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1), wrong.stderr
    assert "--model.head new" in wrong.stderr
    flags = ("--model.weights", str(file), "--model.head", "new", *ONE_EPOCH)
    listed = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]))
    assert "it did not start training" in listed.stdout, listed.stderr
    corrected = run(trainer(tmp_path, shards, *flags))
    assert corrected.returncode == 0, corrected.stderr


def test_the_doctor_checks_the_weights_of_a_new_run(file, tmp_path):
    config = parse_config(["--config", str(TINY), f"--model.weights={file}", "--model.head=new"])
    (found,) = check_weights(config, tmp_path)
    assert f"Starting from {file}" in found.message
    with pytest.raises(UsageError, match=r"--model\.head new"):
        check_weights(parse_config(["--config", str(TINY), f"--model.weights={file}"]), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.pt").touch()
    assert check_weights(config, tmp_path) == []


def test_doctor_and_trainer_reject_a_classifier_of_other_classes(shards, tmp_path):
    """The same classes in another order are other classes."""
    names, path = read_manifest(shards).classes, tmp_path / "checkpoint.pt"
    model = Model(tiny().design(), len(names)).state_dict()
    flags = ("--model.weights", str(path), "--data.shards", str(shards))
    config = parse_config(["--config", str(TINY), *flags])
    path.write_bytes(pack({"model": model, "ema": None, "classes": list(names)}))
    assert "of this program" in check_weights(config, tmp_path)[0].message
    path.write_bytes(pack({"model": model, "ema": None, "classes": list(names[::-1])}))
    with pytest.raises(UsageError, match="its classes have different names"):
        check_weights(config, tmp_path)
    done = run(trainer(tmp_path, shards, *flags, *ONE_EPOCH))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "its classes have different names" in done.stderr


def test_the_summary_shows_pretrained_weights(file):
    flags = ("--config", str(TINY), "--model.weights", str(file), "--classes", "10")
    done = run(ForkedCommand(["-m", "regnet.summary", *flags, "--values", "stem.bn.bias"]))
    assert done.stdout.strip() == str(torch.load(file)["stem.1.bias"]), done.stderr
