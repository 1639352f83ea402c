"""The conversion benchmark runs and reports; measured costs are not judged."""

import json
import os
import signal

import pytest
from fork_server import ForkedCommand
from limits import LIMIT
from processes import has_exited, kill_group, run, start, wait_until

from benchmarks.launch import process_tree

pytestmark = pytest.mark.xdist_group("benchmarks")


def run_benchmark(*options):
    return run(ForkedCommand(["-m", "benchmarks.convert", *map(str, options)]))


def test_the_conversion_benchmark_compares_both_writers(tmp_path):
    report = tmp_path / "report.json"
    done = run_benchmark("--images", 8, "--rounds", 1, "--json", report)
    assert done.returncode == 0, done.stderr
    measured = json.loads(report.read_text())
    assert measured["images"] == 8
    sides, units = ("regnet", "ffcv", "ratio"), ("cpu_ms", "wall_ms", "memory_mb")
    assert set(measured["results"]) == {f"{side}_{unit}" for side in sides for unit in units}
    assert all(spread["lowest"] > 0 for spread in measured["results"].values())
    assert "CPU ms per image" in done.stdout


def test_impossible_options_are_rejected_in_one_line(tmp_path):
    done = run_benchmark("--root", tmp_path / "none")
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'none'}: no such directory\n")
    done = run_benchmark("--images", "many")
    assert done.returncode == 2
    assert "argument --images: must be a positive integer, got 'many'" in done.stderr


def test_a_failed_conversion_is_reported_without_a_traceback(tmp_path):
    for class_name in ("cats", "dogs"):
        (tmp_path / class_name).mkdir()
        for number in range(2):
            (tmp_path / class_name / f"{number}.jpg").write_bytes(b"not a JPEG")
    done = run_benchmark("--root", tmp_path, "--rounds", 1)
    assert done.returncode == 1
    cause, consequence = done.stderr.splitlines()
    assert cause.startswith(f"error: {tmp_path}")
    assert consequence == "failed: the conversion by regnet failed: see the error above"


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_neither_processes_nor_files(tmp_path, number):
    process = start(ForkedCommand(["-m", "benchmarks.convert", "--images", "400"]), TMPDIR=str(tmp_path))
    try:
        wait_until(lambda: list(tmp_path.glob("*/out/images.beton")) or list(tmp_path.glob("*/out/.conversion-*/*")))
        processes = process_tree(process.pid)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=LIMIT)
        if number == signal.SIGTERM:  # a forked process does not use sys.excepthook, which is silent after Ctrl-C
            assert "Traceback" not in err
            wait_until(lambda: all(map(has_exited, processes)))  # it has killed processes of the benchmark, too
        assert all(map(has_exited, processes))  # after Ctrl-C, the benchmark has waited for them
        assert not list(tmp_path.iterdir())
    finally:
        kill_group(process)
