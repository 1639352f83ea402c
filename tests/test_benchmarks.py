"""The benchmarks run and say what they measured; how fast anything is decides nothing here."""

import json
import sys

from programs import run


def benchmark(*options):
    return run([sys.executable, "-m", "benchmarks.loader", *map(str, options)], timeout=200)


def test_the_loader_benchmark_compares_both_sides(shards, tmp_path):
    report = tmp_path / "report.json"
    small = ("--batch-size", 50, "--rounds", 1, "--seconds", 0.3, "--config", "configs/debug.yaml")
    done = benchmark("--shards", shards, *small, "--json", report)
    assert done.returncode == 0, done.stderr
    results = json.loads(report.read_text())["results"]
    assert set(results) == {"ffcv", "data_loader", "loader_ratio", "step_loaded", "step_resident", "step_ratio"}
    for spread in results.values():
        assert 0 < spread["lowest"] <= spread["median"] <= spread["highest"]
    assert "FFCV + device augmentation" in done.stdout


def test_missing_shards_are_told_in_one_line(tmp_path):
    done = benchmark("--shards", tmp_path / "none")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "manifest.json" in done.stderr
