"""The Python code in the documents runs; functions that take a path accept a string."""

import inspect
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from processes import ROOT, TINY, run, trainer

from data.sources.torchvision_datasets import torchvision
from regnet.checkpoint.file import load
from regnet.checkpoint.load_model import load_trained_model, untrained_model, weights_only_checkpoint
from regnet.checkpoint.pretrained import LIBRARIES
from regnet.evaluate import evaluate_checkpoint
from regnet.export.weights_export import export_weights
from regnet.predict import from_checkpoint, from_onnx
from regnet.report import write_run_report

assert torchvision  # importable with a CPU-only torch only after data.sources.torchvision_datasets
PRESET = ("--config", str(ROOT / "configs" / "models" / "regnetx_200mf.yaml"))


@pytest.fixture(scope="module")
def workplace(shards, tmp_path_factory):
    """A directory with the files that the documents name."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("configs", "shards", "images"):
        (folder / name).mkdir()
    (folder / "shards" / "demo").symlink_to(shards)
    (folder / "configs" / "demo.yaml").write_text(
        TINY.read_text()
        .replace("data:", "data:\n  shards: shards/demo")
        .replace("warmup_epochs: 1", "warmup_epochs: 0")
    )
    for name in ("first", "second"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(
            folder / "images" / f"{name}.png"
        )
    done = run(trainer(folder / "runs", shards, "--name", "demo", "--optim.ema_decay", "0.9"))
    assert done.returncode == 0, done.stderr
    checkpoint = folder / "runs" / "demo" / "checkpoints" / "best.pt"
    export_weights(checkpoint, folder / "torchvision.safetensors", "torchvision")
    tensors = untrained_model(PRESET, 100).model.state_dict()
    safetensors.torch.save_file(
        {LIBRARIES["timm"](name): t for name, t in tensors.items()}, folder / "timm.safetensors"
    )
    return folder


def snippets(document):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / document).read_text(), re.DOTALL | re.MULTILINE)


def test_the_documents_have_python_code():
    assert (len(snippets("python.md")), len(snippets("checkpoints.md"))) == (6, 3)


def test_the_page_about_python_runs_from_top_to_bottom(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    namespace = {}
    for code in snippets("python.md"):
        exec(compile(code, "docs/python.md", "exec"), namespace)
    assert namespace["exit_code"] == 0
    assert namespace["result"] == json.loads((workplace / "runs" / "second" / "result.json").read_text())
    assert namespace["found"]["samples"] == 200
    printed = capsys.readouterr().out
    assert printed.startswith(f"epoch {namespace['trained'].epochs}, 100 classes\nimages/first.png ")
    assert "top-1 " in printed
    loaded = safetensors.torch.load_file(workplace / "demo.safetensors")
    for name, tensor in namespace["model"].state_dict().items():
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("code", snippets("checkpoints.md"), ids=["module", "timm", "torchvision"])
def test_the_code_about_checkpoints_loads_what_the_run_evaluates(workplace, monkeypatch, code):
    if "import timm" in code:
        pytest.importorskip("timm", reason="timm is not installed (requirements-peers.txt)")
    monkeypatch.chdir(workplace)
    namespace = {}
    exec(compile(code, "docs/checkpoints.md", "exec"), namespace)
    images = torch.randn(2, 3, 64, 64)
    expected = (
        untrained_model(PRESET, 100).model
        if "import timm" in code
        else load_trained_model("runs/demo/checkpoints/best.pt").model
    )
    with torch.inference_mode():
        assert torch.equal(namespace["model"].eval()(images), expected(images))


def test_paths_may_be_strings(workplace, shards, tmp_path):
    """As the functions that documents mention take a `Path`, they take its text."""
    checkpoint = str(workplace / "runs" / "demo" / "checkpoints" / "best.pt")
    trained = load_trained_model(checkpoint)
    assert load(checkpoint)["progress"]["epoch"] == trained.epochs
    assert len(weights_only_checkpoint(checkpoint)) > 0
    assert from_checkpoint(checkpoint, shards=str(shards)).classes == trained.classes
    assert evaluate_checkpoint(checkpoint, str(shards), "cpu")["samples"] == 200
    export_weights(checkpoint, str(tmp_path / "weights.pt"))
    assert len(from_onnx(str(ROOT / "artifacts" / "cifar100-best.onnx")).classes) == 100
    shutil.copytree(workplace / "runs" / "demo", tmp_path / "demo")
    write_run_report(str(tmp_path / "demo"))


def test_signatures_say_that_paths_may_be_strings():
    for function in (load, load_trained_model, weights_only_checkpoint, from_checkpoint, from_onnx, export_weights):
        first = next(iter(inspect.signature(function).parameters.values()))
        assert first.annotation == str | Path, function
