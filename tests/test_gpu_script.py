"""benchmarks/gpu.sh in rehearsal mode: each selected benchmark is measured once."""

import sys

import pytest
from programs import run

pytestmark = pytest.mark.xdist_group("benchmarks")


def script(shards, results, only):
    variables = {"REHEARSAL": "1", "ONLY": only, "PYTHON": sys.executable}
    return run(["bash", "benchmarks/gpu.sh", str(shards), str(results)], timeout=240, **variables)


@pytest.mark.timeout(500)
def test_selected_benchmarks_run_and_existing_results_are_kept(shards, tmp_path):
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
    ("name", "status", "message"),
    [
        ("epoch", 2, "no benchmark that can run here matches ONLY=epoch"),
        ("accuracy-best-distilled-*", 1, "failed: accuracy-best-distilled-1 (needs accuracy-teacher-1)"),
    ],
)
def test_a_selection_that_cannot_be_measured_is_reported(shards, tmp_path, name, status, message):
    finished = script(shards, tmp_path, name)
    assert finished.returncode == status
    assert message in finished.stderr
    assert not list(tmp_path.iterdir())
