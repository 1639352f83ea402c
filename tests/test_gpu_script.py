"""benchmarks/gpu.sh in rehearsal mode: each selected benchmark is measured once."""

import sys

import pytest
from processes import run
from thoroughness import parametrize_some

pytestmark = pytest.mark.xdist_group("benchmarks")


def run_gpu_script(shards, results, only, **more):
    variables = {"REHEARSAL": "1", "ONLY": only, "PYTHON": sys.executable, **more}
    return run(["bash", "benchmarks/gpu.sh", str(shards), str(results)], **variables)


@pytest.mark.thorough
def test_selected_benchmarks_run_and_existing_results_are_kept(shards, tmp_path):
    first = run_gpu_script(shards, tmp_path, "epochs-*")
    assert first.returncode == 0, first.stderr + first.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"epochs-32.txt", "epochs-32.jsonl"}
    text, rows = (tmp_path / "epochs-32.txt").read_text(), (tmp_path / "epochs-32.jsonl").read_text()
    assert text.startswith("$ ")
    assert "train_ddp.py" in text.splitlines()[0]
    assert len(rows.splitlines()) == 2
    (tmp_path / "epochs-32.txt").write_text("measured")
    again = run_gpu_script(shards, tmp_path, "epochs-*")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "epochs-32.txt").read_text() == "measured"
    assert (tmp_path / "epochs-32.jsonl").read_text() == rows


@parametrize_some(
    ("name", "status", "message"),
    [
        ("epoch", 2, "no benchmark that can run here matches ONLY=epoch"),
        ("accuracy-best-distilled-*", 1, "failed: accuracy-best-distilled-1 (needs accuracy-teacher-1)"),
    ],
)
def test_a_selection_that_cannot_be_measured_is_reported(shards, tmp_path, name, status, message):
    finished = run_gpu_script(shards, tmp_path, name)
    assert finished.returncode == status
    assert message in finished.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_the_gpu_tests_and_the_probe_run_first(shards, tmp_path):
    """Without a GPU the tests are skipped."""
    finished = run_gpu_script(shards, tmp_path, "@(gpu-tests|probe-32)")
    assert finished.returncode == 0, finished.stderr + finished.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"gpu-tests.txt", "probe-32.txt", "probe-32.json"}
    assert " -m pytest -q -m gpu tests/" in (tmp_path / "gpu-tests.txt").read_text().splitlines()[0]
    assert finished.stdout.index(" gpu-tests: ") < finished.stdout.index(" probe-32: ")


def test_no_benchmark_starts_after_the_time_limit(shards, tmp_path):
    (tmp_path / "probe-32.txt").write_text("measured")
    finished = run_gpu_script(shards, tmp_path, "*-32*", MINUTES="0")
    assert finished.returncode == 0, finished.stderr + finished.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["probe-32.txt"]
    (line,) = finished.stdout.splitlines()[1:]
    assert line.startswith("not started within MINUTES=0: step-32-cache step-32-no-cuda-graphs step-32-channels-first ")
    assert line.endswith(" peers-32; run the same command again to resume")


def test_a_time_limit_that_is_no_number_is_rejected(shards, tmp_path):
    finished = run_gpu_script(shards, tmp_path, "*", MINUTES="1.5")
    assert finished.returncode == 2
    assert finished.stderr == "MINUTES must be a non-negative integer, got '1.5'\n"


@pytest.mark.parametrize(("hidden", "status"), [("yaml", 2), ("pytest", 0)])
def test_missing_packages_are_reported_before_the_first_benchmark(shards, tmp_path, hidden, status):
    """The interpreter of this test does not find the hidden package."""
    program = f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "{hidden}" else found(name)
exec(sys.argv[2])
"""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{program}' \"$@\"\n")
    python.chmod(0o755)
    finished = run_gpu_script(shards, tmp_path / "results", "probe-32", PYTHON=str(python), MINUTES="0")
    assert finished.returncode == status, finished.stderr
    needed_by = {"yaml": "every benchmark", "pytest": "gpu-tests"}[hidden]
    assert finished.stderr.splitlines()[0] == f"missing Python packages: {hidden}; needed by {needed_by}"
