"""python -m regnet.export: weights-only checkpoints, ONNX models and diagrams."""

import html
import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from cifar100_statistics import PUBLISHED_MEAN, PUBLISHED_STD
from converting import convert
from fork_server import ForkedCommand
from images import class_folders
from processes import ROOT, run, trainer

from data.manifest import read_manifest
from regnet.checkpoint.load_model import load_trained_model, untrained_model
from regnet.errors import UsageError
from regnet.export.diagram import COLOURS, MAX_BLOCKS, diagram_parts, draw_architecture
from regnet.models.complexity import profile_operators
from regnet.models.regnet import count_parameters
from regnet.predict import from_onnx

pytestmark = pytest.mark.xdist_group("export")

ONE_EPOCH = ("--train.epochs", "1", "--schedule.warmup_epochs", "0", "--optim.lr", "0.01")


@pytest.fixture(scope="module")
def checkpoint(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(trainer(folder, shards, "--optim.ema_decay", "0.8", *ONE_EPOCH)).returncode == 0
    return folder / "tiny" / "checkpoints" / "best.pt"


def export(*arguments):
    return run(ForkedCommand(["-m", "regnet.export", *map(str, arguments)]))


@pytest.mark.parametrize("normalize", [True, False])
def test_onnx_logits_match_pytorch_for_any_batch_size(checkpoint, shards, tmp_path, normalize):
    path = tmp_path / "model.onnx"
    done = export("--checkpoint", checkpoint, "--onnx", path, *(["--normalize"] if normalize else []))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "largest difference from PyTorch" in done.stdout
    assert str(ROOT).encode() not in path.read_bytes(), "no local paths"
    trained, manifest = load_trained_model(checkpoint), read_manifest(shards)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(properties["classes"])) == manifest.classes
    assert properties["resolution"] == "32"
    assert properties["normalization"].startswith("included" if normalize else "not included")
    assert ("inference_transform" in properties) is normalize
    if not normalize:
        with pytest.raises(UsageError, match=f"{path}: does not include its normalisation; use .* --onnx --normalize"):
            from_onnx(path)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (manifest.mean, manifest.std))
    for count in (1, 3, 64):
        images = np.random.default_rng(count).random((count, 3, 32, 32), np.float32)
        (logits,) = session.run(None, {"images": images})
        assert logits.shape == (count, 100)
        inputs = (images - mean) / std if normalize else images
        with torch.inference_mode():
            expected = trained.model(torch.from_numpy(inputs)).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_weights_only_checkpoint_predicts_identically_and_initialises_runs_but_cannot_be_resumed(
    checkpoint, shards, tmp_path
):
    path = tmp_path / "weights.pt"
    done = export("--checkpoint", checkpoint, "--weights", path)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size < 0.6 * checkpoint.stat().st_size
    full, exported = load_trained_model(checkpoint), load_trained_model(path)
    assert (exported.classes, exported.epochs, exported.config) == (full.classes, full.epochs, full.config)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(exported.model(images), full.model(images))
    finetuned = run(trainer(tmp_path, shards, "--model.weights", str(path), "--train.max_steps_per_epoch", "1"))
    assert finetuned.returncode == 0, finetuned.stderr
    assert f"Starting from {path}" in finetuned.stdout
    checkpoints = tmp_path / "other" / "tiny" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(path, checkpoints / "step-000000011.pt")
    resumed = run(trainer(tmp_path / "other", shards, "--optim.ema_decay", "0.8", *ONE_EPOCH))
    assert resumed.returncode == 2
    assert "weights only, which cannot be resumed" in resumed.stderr


def test_the_checkpoint_itself_is_never_overwritten(checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    (tmp_path / "link.pt").symlink_to(checkpoint)
    for flag in ("--weights", "--onnx"):
        done = export("--checkpoint", checkpoint, flag, tmp_path / "link.pt")
        assert done.returncode == 2
        assert "would be overwritten" in done.stderr
    assert checkpoint.read_bytes() == before


def test_the_published_checkpoint_and_onnx_model_are_the_same_network():
    trained = load_trained_model(ROOT / "artifacts" / "cifar100-best.pt")
    assert (count_parameters(trained.model), trained.epochs) == (2_275_604, 40)
    session = onnxruntime.InferenceSession(ROOT / "artifacts" / "cifar100-best.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(properties["classes"])) == trained.classes
    images = torch.rand(4, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PUBLISHED_MEAN, PUBLISHED_STD))
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        expected = trained.model((images - mean) / std).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3)


@pytest.mark.thorough
def test_a_difference_above_the_tolerance_fails(checkpoint, tmp_path):
    done = export("--checkpoint", checkpoint, "--onnx", tmp_path / "model.onnx", "--tolerance", "1e-30")
    assert done.returncode == 1
    assert "differs from PyTorch by more than 1e-30" in done.stderr


def test_files_that_cannot_be_read_or_written_are_one_line_errors(checkpoint, tmp_path):
    source, other = class_folders(tmp_path / "images"), tmp_path / "other"
    assert convert("--source", "folder", "--root", source, "--out", other, "--shards", 1).returncode == 0
    for arguments, words in (
        (("--checkpoint", tmp_path / "none.pt", "--onnx", tmp_path / "a.onnx"), "none.pt"),
        (("--checkpoint", checkpoint, "--onnx", tmp_path / "no" / "a.onnx"), "no is not a directory"),
        (("--checkpoint", checkpoint, "--onnx", "a.onnx", "--normalize", "--shards", tmp_path), "no manifest.json"),
        (("--checkpoint", checkpoint, "--onnx", "a.onnx", "--normalize", "--shards", other), "its classes differ"),
    ):
        done = export(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_diagrams_are_written_in_the_format_of_the_suffix(checkpoint, tmp_path, suffix):
    files = tmp_path / f"architecture.{suffix}", tmp_path / f"graph.{suffix}"
    flags = ("--architecture", files[0], *(("--graph", files[1]) if shutil.which("dot") else ()))
    done = export("--checkpoint", checkpoint, *flags)
    assert done.returncode == 0, done.stderr
    signature = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[suffix]
    for file in files[: len(flags) // 2]:
        assert file.read_bytes().startswith(signature)
        assert f"{file}: " in done.stdout


def test_the_architecture_diagram_agrees_with_the_summary(checkpoint, tmp_path):
    assert export("--checkpoint", checkpoint, "--architecture", tmp_path / "architecture.svg").returncode == 0
    text = (tmp_path / "architecture.svg").read_text()
    model = load_trained_model(checkpoint).model
    for part in (model.stem, *model.body, model.head):
        assert f">{count_parameters(part):,} parameters</" in text
    all_operators = profile_operators(model, 32)
    for prefix in ("stem", *(f"body.{index}" for index, _ in enumerate(model.body)), "head"):
        own = [operator for operator in all_operators if f"{operator.name}.".startswith(f"{prefix}.")]
        assert f">{sum(operator.multiply_adds for operator in own) / 1e6:,.2f} M multiply-adds</" in text
        if prefix != "head":
            channels, height, width = own[-1].output
            assert f">{channels} channels, {height}×{width}</" in text
    assert f"tiny: {count_parameters(model):,} parameters, " in text
    for stage in model.body:
        assert f">{len(stage.layers)} block{'s' if len(stage.layers) > 1 else ''}</" in text


def test_squeeze_and_excitation_is_drawn_counted_and_exported_to_onnx(shards, tmp_path):
    short = ("--train.epochs", "1", "--schedule.warmup_epochs", "0", "--train.max_steps_per_epoch", "1")
    assert run(trainer(tmp_path, shards, "--model.se_ratio", "0.25", *short)).returncode == 0
    checkpoint, diagram = tmp_path / "tiny/checkpoints/best.pt", tmp_path / "architecture.svg"
    done = export("--checkpoint", checkpoint, "--architecture", diagram, "--onnx", tmp_path / "tiny.onnx")
    assert done.returncode == 0, done.stderr
    text = diagram.read_text()
    for part in load_trained_model(checkpoint).model.body:
        assert f">{count_parameters(part):,} parameters</" in text
    assert text.count(">SE</") == 2
    assert "squeeze-and-excitation (SE) reduces to 0.25 times the block's input channels" in html.unescape(text)


def test_the_diagram_of_the_smallest_network_has_room_for_its_text(shards, tmp_path):
    short = ("--train.epochs", "1", "--schedule.warmup_epochs", "0")
    flags = ("--model.depth", "1", "--model.bottleneck_ratio", "2", *short)
    assert run(trainer(tmp_path, shards, *flags)).returncode == 0
    diagram = tmp_path / "architecture.svg"
    done = export("--checkpoint", tmp_path / "tiny/checkpoints/best.pt", "--architecture", diagram)
    assert done.returncode == 0, done.stderr
    text = diagram.read_text()
    assert float(re.search(r'width="([\d.]+)pt"', text)[1]) >= 9 * 72
    assert "have 2 times as many channels as the block's output" in html.unescape(text)


def test_a_stage_of_many_blocks_is_drawn_with_an_ellipsis(tmp_path):
    for depth in (MAX_BLOCKS, MAX_BLOCKS + 1):
        network = untrained_model(("--model.depth", str(depth), "--model.w_a", "0"), 3)
        assert [part.blocks for part in diagram_parts(network)] == [1, depth, 1]
        path = tmp_path / f"{depth}.svg"
        draw_architecture(network, path)
        text = path.read_text()
        assert f">{depth} blocks</" in text
        assert text.count(f"fill: {COLOURS[1]}") == MAX_BLOCKS
        assert (">…</" in text) is (depth > MAX_BLOCKS)


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_the_graph_has_every_weight(checkpoint, tmp_path):
    assert export("--checkpoint", checkpoint, "--graph", tmp_path / "graph.svg").returncode == 0
    text = (tmp_path / "graph.svg").read_text()
    for name, weight in load_trained_model(checkpoint).model.named_parameters():
        assert f">{name}</" in text
        assert str(tuple(weight.shape)).replace(",)", ")") in text


def test_diagrams_that_cannot_be_drawn_are_one_line_errors(checkpoint, tmp_path):
    for arguments, words in (
        (("--architecture", tmp_path / "a.gif"), "a.gif: unknown image format, use .svg, .png or .pdf"),
        (("--graph", tmp_path / "a"), "a: unknown image format, use .svg, .png or .pdf"),
        (("--architecture", tmp_path / "no" / "a.svg"), "no is not a directory"),
        (("--architecture", tmp_path / "a.svg", "--graph", tmp_path / "b.txt"), "unknown image format"),
        (("--architecture", tmp_path / "a.svg", "--graph", tmp_path / "a.svg"), "named for two outputs"),
        ((), "nothing to export"),
    ):
        done = export("--checkpoint", checkpoint, *arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr
    assert not list(tmp_path.iterdir()), "no partial output"


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        (None, "error: --graph requires the graphviz program dot: apt-get install graphviz"),
        ("", "error: {}: graphviz's program dot could not draw the graph (exit status 3)"),
        (
            "Format: svg\nnot recognized",
            "error: {}: graphviz's program dot could not draw the graph (Format: svg not rec",
        ),
    ],
)
def test_a_missing_or_failing_dot_is_a_one_line_error(checkpoint, tmp_path, complaint, words):
    if complaint is not None:
        (tmp_path / "dot").write_text(f"#!/bin/sh\n/bin/cat > /dev/null\nprintf '{complaint}' >&2\nexit 3\n")
        (tmp_path / "dot").chmod(0o755)
    graph = tmp_path / "graph.svg"
    command = ["-m", "regnet.export", "--checkpoint", str(checkpoint), "--graph", str(graph)]
    done = run(ForkedCommand(command), PATH=str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith(words.format(graph))
    assert not graph.exists()
