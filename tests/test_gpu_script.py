"""benchmarks/gpu.sh, rehearsed: what is asked for is measured, once."""

import sys

import pytest
from programs import run

pytestmark = pytest.mark.xdist_group("benchmarks")


def script(shards, results, only):
    asked = {"REHEARSAL": "1", "ONLY": only, "PYTHON": sys.executable, "REFERENCE_LOG": "none"}
    return run(["bash", "benchmarks/gpu.sh", str(shards), str(results)], timeout=240, **asked)


@pytest.mark.timeout(500)
def test_what_is_asked_for_is_measured_and_not_again(shards, tmp_path):
    first = script(shards, tmp_path, "epochs-*")
    assert first.returncode == 0, first.stderr + first.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"epochs-32.txt", "epochs-32.jsonl"}
    text, rows = (tmp_path / "epochs-32.txt").read_text(), (tmp_path / "epochs-32.jsonl").read_text()
    assert text.startswith("$ ")
    assert "train_ddp.py" in text.splitlines()[0]
    assert len(rows.splitlines()) == 2
    (tmp_path / "epochs-32.txt").write_text("measured")
    again = script(shards, tmp_path, "epochs-*")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "epochs-32.txt").read_text() == "measured"
    assert (tmp_path / "epochs-32.jsonl").read_text() == rows


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("epoch", 2, "no result that can be had here and now has a name like epoch"),
        ("accuracy-best-distilled-*", 1, "failed: accuracy-best-distilled-1, for which accuracy-teacher-1 is needed"),
    ],
)
def test_what_cannot_be_measured_is_told(shards, tmp_path, name, status, words):
    done = script(shards, tmp_path, name)
    assert done.returncode == status
    assert words in done.stderr
    assert not list(tmp_path.iterdir())
