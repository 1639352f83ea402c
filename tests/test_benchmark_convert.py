"""The conversion benchmark runs and reports; measured costs are not judged."""

import json

import pytest
from fork_server import ForkedCommand
from programs import run

pytestmark = pytest.mark.xdist_group("benchmarks")


def benchmark(*options):
    return run(ForkedCommand(["-m", "benchmarks.convert", *map(str, options)]), timeout=200)


def test_the_conversion_benchmark_compares_both_writers(tmp_path):
    report = tmp_path / "report.json"
    done = benchmark("--images", 8, "--rounds", 1, "--json", report)
    assert done.returncode == 0, done.stderr
    measured = json.loads(report.read_text())
    assert measured["images"] == 8
    sides, units = ("regnet", "ffcv", "ratio"), ("cpu_ms", "wall_ms", "memory_mb")
    assert set(measured["results"]) == {f"{side}_{unit}" for side in sides for unit in units}
    assert all(spread["lowest"] > 0 for spread in measured["results"].values())
    assert "CPU ms per image" in done.stdout


def test_impossible_options_are_rejected_in_one_line(tmp_path):
    done = benchmark("--root", tmp_path / "none")
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'none'}: no such directory\n")
    done = benchmark("--images", "many")
    assert done.returncode == 2
    assert "argument --images: must be a positive integer, got 'many'" in done.stderr
