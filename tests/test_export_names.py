"""Weights for other libraries: exported under their names, they load into their models and give identical logits."""

import json
import os
import resource
from dataclasses import asdict

import pytest
import safetensors
import safetensors.torch
import torch
from fork_server import ForkedCommand
from pretrained_weights import randomise
from processes import TINY, run

from data.sources.torchvision_datasets import torchvision
from regnet.checkpoint.file import pack
from regnet.checkpoint.load_model import load_trained_model
from regnet.checkpoint.pretrained import read_weights
from regnet.config.parser import parse_config
from regnet.config.schema import ModelConfig, to_plain_types
from regnet.export.weights_export import export_weights
from regnet.models.regnet import Model

CLASSES = 10
FOUR_STAGES = ("--model.depth", "8", "--data.resolution", "64")
FAMILIES = {
    "x": FOUR_STAGES,
    "y": (*FOUR_STAGES, "--model.se_ratio", "0.25"),
    "bottleneck": (*FOUR_STAGES, "--model.bottleneck_ratio", "2"),
}


def export(*arguments):
    return run(ForkedCommand(["-m", "regnet.export", *map(str, arguments)]))


def checkpoint_of(folder, *flags):
    """A weights-only checkpoint of a network of random weights and statistics."""
    config = parse_config(["--config", str(TINY), *flags])
    torch.manual_seed(0)
    model = randomise(Model(config.model.design(), CLASSES))
    classes = [f"class {label}" for label in range(CLASSES)]
    metadata = {"config": to_plain_types(asdict(config)), "data": "", "classes": classes, "progress": {"epoch": 3}}
    path = folder / "trained.pt"
    path.write_bytes(pack({"model": model.state_dict(), "ema": None, **metadata}))
    return path


def torchvision_model(config: ModelConfig):
    design, regnet = config.design(), torchvision.models.regnet
    stages = [
        (stage.depth, stage.width, stage.group_width, config.bottleneck_ratio, stage.stride) for stage in design.stages
    ]
    blocks = regnet.BlockParams(*map(list, zip(*stages, strict=True)), se_ratio=config.se_ratio or None)
    return regnet.RegNet(blocks, num_classes=CLASSES, stem_width=config.stem_width)


def timm_model(config: ModelConfig):
    pytest.importorskip("timm", reason="timm is not installed (requirements-peers.txt)")
    from timm.models.regnet import RegNet, RegNetCfg

    return RegNet(
        RegNetCfg(
            depth=config.depth,
            w0=config.w_0,
            wa=config.w_a,
            wm=config.w_m,
            group_size=config.group_width,
            bottle_ratio=config.bottleneck_ratio,
            stem_width=config.stem_width,
            se_ratio=config.se_ratio,
        ),
        num_classes=CLASSES,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("names", "library"), [("torchvision", torchvision_model), ("timm", timm_model)])
def test_the_library_computes_bit_identical_logits(tmp_path, names, library, family):
    checkpoint, path = checkpoint_of(tmp_path, *FAMILIES[family]), tmp_path / "weights.safetensors"
    trained = load_trained_model(checkpoint)
    other = library(trained.config.model).eval()
    done = export("--checkpoint", checkpoint, "--weights", path, "--names", names)
    assert done.returncode == 0, done.stderr
    assert f"{path}: " in done.stdout
    other.load_state_dict(safetensors.torch.load_file(path), strict=True)
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        logits = trained.model(images)
        assert logits.std() > 1e-3
        assert torch.equal(other(images), logits)


@pytest.mark.parametrize("names", ["regnet", "timm", "torchvision"])
def test_every_tensor_comes_back_and_the_file_names_the_classes(tmp_path, names):
    checkpoint, path = checkpoint_of(tmp_path, *FAMILIES["y"]), tmp_path / "weights.safetensors"
    flags = () if names == "regnet" else ("--names", names)
    assert export("--checkpoint", checkpoint, "--weights", path, *flags).returncode == 0
    trained = load_trained_model(checkpoint)
    config = parse_config(["--config", str(TINY), *FAMILIES["y"], "--model.weights", str(path)]).model
    expected = trained.model.state_dict()
    found = read_weights(config, Model(config.design(), CLASSES).state_dict()).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert tuple(json.loads(metadata["classes"])) == trained.classes


WIDER = (*FOUR_STAGES, "--model.group_width", "24", "--model.rounding", "torchvision")
BASELINE = ("--model.variant", "baseline")


@pytest.mark.parametrize(
    ("flags", "arguments", "words"),
    [
        (
            BASELINE,
            ("--weights", "w.safetensors", "--names", "timm"),
            "--names timm: timm has only networks of model.variant paper, this one is of variant baseline. "
            "Use --names regnet",
        ),
        (BASELINE, ("--weights", "w.safetensors", "--names", "torchvision"), "this one is of variant baseline"),
        ((), ("--weights", "w.safetensors", "--names", "timm"), "timm has only networks of 4 stages, this one has 3."),
        (WIDER, ("--weights", "w.safetensors", "--names", "timm"), "of model.rounding nearest, this one is wider."),
        ((), ("--weights", "w.pt", "--names", "timm"), "--names needs --weights with the ending .safetensors"),
        ((), ("--onnx", "w.onnx", "--names", "timm"), "--names needs --weights with the ending .safetensors"),
    ],
)
def test_what_no_library_could_load_is_rejected_in_one_line(tmp_path, flags, arguments, words):
    done = export(
        "--checkpoint", checkpoint_of(tmp_path, *flags), arguments[0], tmp_path / arguments[1], *arguments[2:]
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert words in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trained.pt"]


def test_a_network_of_another_form_is_exported_under_its_own_names(tmp_path):
    checkpoint, path = checkpoint_of(tmp_path, *BASELINE), tmp_path / "weights.safetensors"
    assert export("--checkpoint", checkpoint, "--weights", path).returncode == 0
    model = load_trained_model(checkpoint).model
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_export_that_fails_keeps_the_previous_file(tmp_path, suffix):
    """A limit on the size of files stands for a full disk."""
    checkpoint, path = checkpoint_of(tmp_path), tmp_path / f"weights{suffix}"
    path.write_text("previous")
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            export_weights(checkpoint, path)
        except OSError as error:
            os._exit(0 if error.filename == str(path) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert path.read_text() == "previous"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["trained.pt", path.name]
