"""evaluation.npz: what is written is read, and other files are rejected."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from regnet.metrics.evaluation_file import EvaluationFile, most_confused, read_evaluation_file

VALID = EvaluationFile(
    classes=np.array(["cat", "dog"]),
    confusion=np.array([[3, 1], [0, 2]]),
    confidence=np.array([0.9, 0.5, 0.4], np.float32),
    labels=np.array([0, 1, 1]),
    predicted=np.array([1, 0, 0]),
    images=np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3),
    calibration=np.arange(45.0).reshape(3, 15),
)


def written_file(folder, content):
    path = folder / "evaluation.npz"
    path.write_bytes(content)
    return path


def content_without(name):
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value for key, value in vars(VALID).items() if key != name})
    return buffer.getvalue()


@pytest.mark.parametrize("evaluation", [VALID, replace(VALID, calibration=None)], ids=["new", "without calibration"])
def test_an_evaluation_file_is_read_as_it_was_written(tmp_path, evaluation):
    found = read_evaluation_file(written_file(tmp_path, evaluation.to_bytes()))
    for name, expected in vars(evaluation).items():
        if expected is None:
            assert vars(found)[name] is None
        else:
            np.testing.assert_array_equal(vars(found)[name], expected, strict=True)


def test_an_evaluation_without_errors_is_valid(tmp_path):
    names = ("confidence", "labels", "predicted", "images")
    empty = replace(VALID, **{name: vars(VALID)[name][:0] for name in names})
    assert len(read_evaluation_file(written_file(tmp_path, empty.to_bytes())).images) == 0


def test_the_file_is_compressed(tmp_path):
    path = written_file(tmp_path, replace(VALID, images=np.zeros((3, 99, 99, 3), np.uint8)).to_bytes())
    assert path.stat().st_size < 5000


@pytest.mark.parametrize("name", ["classes", "confusion", "confidence", "labels", "predicted", "images"])
def test_a_file_without_an_array_or_with_one_of_another_shape_is_rejected(tmp_path, name):
    longer = replace(VALID, **{name: np.concatenate([vars(VALID)[name]] * 2)})
    scalar = replace(VALID, **{name: vars(VALID)[name].flat[0]})
    for content in (content_without(name), longer.to_bytes(), scalar.to_bytes()):
        path = written_file(tmp_path, content)
        with pytest.raises(ValueError, match="not a valid evaluation file") as raised:
            read_evaluation_file(path)
        assert str(raised.value).startswith(f"{path}: ")


def test_a_single_class_is_an_array_too(tmp_path):
    path = written_file(tmp_path, replace(VALID, classes=np.array("cat"), confusion=np.array([[6]])).to_bytes())
    with pytest.raises(ValueError, match="not a valid evaluation file"):
        read_evaluation_file(path)


@pytest.mark.parametrize("shape", [(45,), (15, 3), (2, 15), (3, 5, 3)])
def test_a_calibration_of_another_shape_is_rejected(tmp_path, shape):
    path = written_file(tmp_path, replace(VALID, calibration=np.zeros(shape)).to_bytes())
    with pytest.raises(ValueError, match=r"not a valid evaluation file \(calibration has shape"):
        read_evaluation_file(path)


def test_files_of_other_kinds_are_rejected(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("notes.txt", "no arrays")
    extra = io.BytesIO()
    np.savez(extra, **vars(VALID), more=np.zeros(1))
    pickled = io.BytesIO()
    np.savez(pickled, **vars(replace(VALID, classes=np.array(["cat", None], dtype=object))))
    valid = VALID.to_bytes()
    for content in (b"", valid[:-30], b"PK" + valid[2:200], archive.getvalue(), extra.getvalue(), pickled.getvalue()):
        with pytest.raises(ValueError):  # noqa: PT011  # its text may be numpy's
            read_evaluation_file(written_file(tmp_path, content))


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_evaluation_file(tmp_path / "evaluation.npz")


def test_equal_confusions_are_listed_by_label_and_prediction():
    confusion = np.full((20, 20), 3)
    confusion[4, 2] = 9
    pairs = most_confused(confusion, 40)
    others = [(label, predicted, 3) for label in range(20) for predicted in range(20) if label != predicted]
    others.remove((4, 2, 3))
    assert pairs == [(4, 2, 9), *others[:39]]
    assert most_confused(np.diag([5, 6, 7]), 3) == []
