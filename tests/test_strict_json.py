"""JSON files are valid where a value is missing: a class without validation images, a loss that is not finite."""

import json
import math

import pytest
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from images import class_folders
from processes import run, trainer

from regnet.runs.json_format import format_json


def reject_constant(name):
    raise ValueError(f"{name} is not JSON")


def read_json(text):
    return json.loads(text, parse_constant=reject_constant)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(values, st.sampled_from([None, 1]))
def test_json_is_strict_and_keeps_every_finite_value(value, indent):
    expected = json.loads(json.dumps(value), parse_constant=lambda _: None)
    assert read_json(format_json(value, indent)) == expected


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three classes, one of which has no validation image."""
    folder = tmp_path_factory.mktemp("images")
    class_folders(folder, train=12, val=0)
    for image in sorted((folder / "train" / "cat").iterdir())[1:]:
        image.unlink()
    options = ["--source", "folder", "--root", str(folder), "--out", str(folder / "shards"), "--hold-out", "4"]
    done = run(ForkedCommand(["-m", "data.convert", *options, "--shards", "1"]))
    assert done.returncode == 0, done.stderr
    return folder / "shards"


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    flags = ("--train.batch_size", "8", "--tracking.console_classes", "true")
    done = run(trainer(folder, shards, *flags))
    assert done.returncode == 0, done.stderr
    return done, folder / "tiny"


def test_a_class_without_validation_images_is_null_in_files_and_a_dash_in_tables(finished):
    done, directory = finished
    result = read_json((directory / "result.json").read_text())
    assert result["class_accuracy"]["cat"] is None
    assert result["class_samples"]["cat"] == 0
    assert all(isinstance(result["class_accuracy"][name], float) for name in ("ant", "bee"))
    assert "cat -" in done.stdout
    assert "nan" not in done.stdout
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        read_json(line)


def test_evaluate_shows_a_class_without_validation_images_last(finished, tmp_path):
    _, directory = finished
    best, written = directory / "checkpoints" / "best.pt", tmp_path / "evaluation.json"
    done = run(ForkedCommand(["-m", "regnet.evaluate", "--checkpoint", str(best), "--json", str(written)]))
    assert done.returncode == 0, done.stderr
    evaluation = read_json(written.read_text())
    assert evaluation["class_accuracy"]["cat"] is None
    assert math.isclose(sum(map(sum, evaluation["confusion"])), 4)
    assert "nan" not in done.stdout
    table = done.stdout.partition("accuracy per class, best first:")[2]
    assert table.index("cat -") > max(table.index("ant "), table.index("bee "))
