"""Networks that begin with the weights of others: torchvision's, timm's, those of another run."""

import pickle
import re
import shutil
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nursery import ForkedCommand
from programs import ROOT, result, rows, run, trainer

from data.manifest import read_manifest
from data.sources.torchvision_datasets import torchvision
from regnet.checkpoint.file import load, pack
from regnet.checkpoint.load_model import untrained_model
from regnet.checkpoint.manager import CheckpointManager
from regnet.checkpoint.pretrained import load_pretrained, read_weights
from regnet.config.parser import parse_config
from regnet.config.schema import ModelConfig
from regnet.doctor.run_directory import check_weights
from regnet.errors import UsageError
from regnet.models.regnet import Model

TINY = ROOT / "tests" / "tiny.yaml"
ONE_EPOCH = ("--train.epochs", "1", "--schedule.warmup_epochs", "0", "--train.max_steps_per_epoch", "2")


def randomise(model):
    """No number in it is where it would be anyway, BatchNorm's statistics and counters included."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            value.fill_(7)
        elif value.ndim == 1 and "bias" not in name:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.ndim == 1:
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


def of_torchvision(family):
    return randomise(getattr(torchvision.models, f"regnet_{family}_400mf")())


def of_timm(family):
    timm = pytest.importorskip("timm")
    return randomise(timm.create_model(f"regnet{family}_002"))


def tiny_of_torchvision(classes=10):
    """A network of the design of tests/tiny.yaml, as torchvision builds it."""
    design, regnet = parse_config(["--config", str(TINY)]).model.design(), torchvision.models.regnet
    columns = [(stage.depth, stage.width, stage.group_width, 1.0, stage.stride) for stage in design.stages]
    torch.manual_seed(0)
    blocks = regnet.BlockParams(*map(list, zip(*columns, strict=True)))
    return randomise(regnet.RegNet(blocks, num_classes=classes, stem_width=8))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("family", ["x", "y"])
@pytest.mark.parametrize(("library", "size"), [(of_torchvision, "400mf"), (of_timm, "200mf")])
def test_others_weights_give_their_logits_to_the_bit(tmp_path, library, size, family, suffix):
    theirs, path = library(family), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        safetensors.torch.save_file(theirs.state_dict(), path)
    preset = ROOT / "configs" / "models" / f"regnet{family}_{size}.yaml"
    rounding = "torchvision" if library is of_torchvision else "nearest"
    flags = ["--config", str(preset), f"--model.weights={path}", f"--model.rounding={rounding}"]
    ours = untrained_model(flags, 1000).model
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = theirs(images)
        assert logits.std() > 1e-3
        assert torch.equal(ours(images), logits)
    assert ours.stem.bn.num_batches_tracked == 7


def tiny(*flags):
    return parse_config(["--config", str(TINY), *flags]).model


def read(path, classes=10, **options):
    config = tiny(f"--model.weights={path}", *(f"--model.{name}={value}" for name, value in options.items()))
    return read_weights(config, Model(config.design(), classes).state_dict())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(tiny_of_torchvision().state_dict(), path)
    return path


def refusal(path, **options):
    with pytest.raises(UsageError) as caught:
        read(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_new_head_stays_as_it_was_drawn(file):
    model = Model(tiny().design(), classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_pretrained(model, read(file, classes=3, head="new").tensors)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("head."), name


def test_other_classes_are_refused_with_what_to_say_instead(file):
    assert "a classifier of 10 classes, 3 are needed; --model.head new" in refusal(file, classes=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("stem.1.bias"), "it lacks stem.1.bias"),
        (lambda weights: weights.pop("fc.weight"), "it lacks fc.weight"),
        (lambda weights: weights.pop("fc.bias"), "no classifier"),
        (lambda weights: weights.pop("stem.0.weight"), "no RegNet of this program, torchvision, timm"),
        (lambda weights: weights.update({"more.weight": torch.ones(1)}), "it has more.weight too"),
        (lambda weights: weights.update({"stem.1.bias": torch.ones(9)}), r"stem.1.bias is \(9,\) there, \(8,\) here"),
        (lambda weights: weights.update({"stem.1.bias": torch.ones(8).int()}), "stem.1.bias is no tensor of plain"),
        (lambda weights: weights.update({"stem.1.bias": torch.ones(8).to_sparse()}), "stem.1.bias is no tensor of"),
        (lambda weights: weights.update({"stem.1.bias": torch.full((8,), torch.nan)}), "stem.1.bias is not finite"),
        (lambda weights: weights.update({"stem.1.bias": 3}), "stem.1.bias in it is no tensor"),
    ],
)
def test_weights_of_another_network_are_refused_by_the_first_difference(file, tmp_path, change, words):
    weights, path = torch.load(file), tmp_path / "changed.pth"
    change(weights)
    torch.save(weights, path)
    assert re.search(words, refusal(path))


def test_torchvisions_other_rounding_is_hinted_at(tmp_path, file):
    assert "model.rounding torchvision" in refusal(file, depth=2)
    assert "model.rounding" not in refusal(file, depth=2, rounding="torchvision")


def test_counters_that_nothing_reads_may_be_missing(file, tmp_path):
    weights = {name: value for name, value in torch.load(file).items() if "num_batches" not in name}
    path = tmp_path / "without.pth"
    torch.save(weights, path)
    expected = {name: value for name, value in read(file).tensors.items() if value.is_floating_point()}
    found = read(path).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@given(
    cut=st.integers(0, 2**20), noise=st.binary(max_size=40), suffix=st.sampled_from([".pth", ".safetensors", ".bin"])
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_file_is_refused_in_one_line(file, tmp_path, cut, noise, suffix):
    content, path = file.read_bytes(), tmp_path / f"noise{suffix}"
    path.write_bytes(noise + content[: cut % len(content)])
    assert "\n" not in refusal(path)


@pytest.mark.parametrize("value", [[1, 2], {"state_dict": {}}, {}, "text", torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path, value):
    path = tmp_path / "other.pth"
    torch.save(value, path)
    refusal(path)
    path.write_bytes(pack({"model": value, "ema": None}))
    refusal(path)
    path.write_bytes(pack({"something": value}))
    assert "a checkpoint of something else" in refusal(path)


def test_a_foreign_pickle_is_refused_without_a_warning_beside_the_line(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps([1, 2], protocol=4))
    with warnings.catch_warnings(action="error"):
        assert "Detected pickle" not in refusal(path)


def test_files_that_cannot_be_read_or_were_altered_are_named(file, tmp_path):
    assert "No such file" in refusal(tmp_path / "none.pth")
    assert "directory" in refusal(tmp_path)
    path = tmp_path / "altered.pt"
    path.write_bytes(b"?" + pack({"model": {}, "ema": None})[1:])
    assert "altered since it was written" in refusal(path)


@pytest.mark.parametrize("flag", ["--train.zero_init_residual=true", "--train.init_std=0.1"])
def test_first_weights_are_either_made_or_brought(file, flag):
    with pytest.raises(UsageError, match=r"model\.weights .* train\.init_std"):
        parse_config([f"--model.weights={file}", flag])


def test_the_skeleton_does_not_depend_on_the_weights():
    assert ModelConfig(weights="some.pth", head="new").design() == ModelConfig().design()


@pytest.mark.parametrize("processes", [0, 2])
def test_a_run_begins_with_weights_and_continues_without_them(shards, file, tmp_path, processes):
    """Its first evaluation, after steps that change next to nothing, is of what was read; then the file goes."""
    copy = tmp_path / "weights.pth"
    shutil.copy(file, copy)
    flags = ("--model.weights", str(copy), "--model.head", "new", "--optim.ema_decay", "0.9", *ONE_EPOCH)
    still = ("--optim.name", "sgd", "--optim.lr", "1e-30", "--schedule.start_lr", "0", "--schedule.min_lr", "0")
    command = trainer(tmp_path, shards, *flags, *still, "--schedule.name", "baseline", processes=processes)
    done = run(command)
    assert done.returncode == 0, done.stderr
    expected = read(file, classes=100, head="new").tensors
    assert done.stdout.count(f"begins with {copy}: ") == 1
    assert "of torchvision; the head is new" in done.stdout
    saved = load(CheckpointManager(tmp_path / "tiny" / "checkpoints", 1).paths()[-1])
    for name, value in expected.items():
        if "running" not in name and value.is_floating_point():
            assert torch.equal(saved["model"][name], value), name
            torch.testing.assert_close(saved["ema"][f"module.{name}"], value)
    copy.unlink()
    longer = trainer(tmp_path, shards, *flags, *still, "--schedule.name", "baseline", "--train.epochs", "2")
    done = run(longer)
    assert done.returncode == 0, done.stderr
    assert "continuing from" in done.stdout
    assert "begins with" not in done.stdout
    assert len(rows(tmp_path / "tiny", "epoch")) == 2


def test_a_run_begins_with_the_average_of_another(shards, tmp_path):
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


def test_weights_that_cannot_be_used_end_all_ranks_with_one_line_and_leave_the_name_free(shards, file, tmp_path):
    """Also to a run of another length, which is another one where rates depend on it."""
    wrong = run(trainer(tmp_path, shards, "--model.weights", str(file), "--train.epochs", "4", processes=2))
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1), wrong.stderr
    assert "--model.head new" in wrong.stderr
    flags = ("--model.weights", str(file), "--model.head", "new", *ONE_EPOCH)
    listed = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]))
    assert "it did not begin" in listed.stdout, listed.stderr
    mended = run(trainer(tmp_path, shards, *flags))
    assert mended.returncode == 0, mended.stderr


def test_the_doctor_reads_the_weights_of_a_run_that_is_yet_to_begin(file, tmp_path):
    config = parse_config(["--config", str(TINY), f"--model.weights={file}", "--model.head=new"])
    (found,) = check_weights(config, tmp_path)
    assert f"begins with {file}" in found.saw
    with pytest.raises(UsageError, match=r"--model\.head new"):
        check_weights(parse_config(["--config", str(TINY), f"--model.weights={file}"]), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.pt").touch()
    assert check_weights(config, tmp_path) == []


def test_neither_the_doctor_nor_a_run_keeps_a_classifier_of_other_classes(shards, tmp_path):
    """In another order they are others."""
    names, path = read_manifest(shards).classes, tmp_path / "of-a-run.pt"
    model = Model(tiny().design(), len(names)).state_dict()
    flags = ("--model.weights", str(path), "--data.shards", str(shards))
    config = parse_config(["--config", str(TINY), *flags])
    path.write_bytes(pack({"model": model, "ema": None, "classes": list(names)}))
    assert "of this program" in check_weights(config, tmp_path)[0].saw
    path.write_bytes(pack({"model": model, "ema": None, "classes": list(names[::-1])}))
    with pytest.raises(UsageError, match="other classes"):
        check_weights(config, tmp_path)
    refused = run(trainer(tmp_path, shards, *flags, *ONE_EPOCH))
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    assert "other classes" in refused.stderr


def test_the_summary_is_of_the_weights_that_a_run_would_begin_with(file):
    flags = ("--config", str(TINY), "--model.weights", str(file), "--classes", "10")
    shown = run(ForkedCommand(["-m", "regnet.summary", *flags, "--values", "stem.bn.bias"]))
    assert shown.stdout.strip() == str(torch.load(file)["stem.1.bias"]), shown.stderr
