"""The benchmarks run and say what they measured; how fast anything is decides nothing here."""

import json
import sys

import pytest
from programs import ROOT, run

pytestmark = pytest.mark.xdist_group("benchmarks")  # they look at what is left in runs/

SMALL = ("--batch-size", 50, "--rounds", 1, "--seconds", 0.3, "--config", "configs/debug.yaml")


def benchmark(name, *options):
    return run([sys.executable, "-m", f"benchmarks.{name}", *map(str, options)], timeout=200)


def in_order(results):
    return all(0 < spread["lowest"] <= spread["median"] <= spread["highest"] for spread in results.values())


def test_the_loader_benchmark_compares_both_sides(shards, tmp_path):
    report = tmp_path / "report.json"
    done = benchmark("loader", "--shards", shards, *SMALL, "--json", report)
    assert done.returncode == 0, done.stderr
    results = json.loads(report.read_text())["results"]
    assert set(results) == {"ffcv", "data_loader", "loader_ratio", "step_loaded", "step_resident", "step_ratio"}
    assert in_order(results)
    assert "FFCV + device augmentation" in done.stdout


def test_the_checkpoint_benchmark_compares_writing_beside_and_waiting(shards, tmp_path):
    report = tmp_path / "report.json"
    done = benchmark("checkpoint", "--shards", shards, *SMALL, "--every", 2, "--json", report)
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert set(told["results"]) == {"plain", "beside", "waited", "beside_ratio", "waited_ratio"}
    assert in_order(told["results"])
    assert told["checkpoint_bytes"] > 10_000
    assert "checkpoints written beside the steps" in done.stdout
    assert not list((ROOT / "runs").glob(".benchmark-*"))


@pytest.mark.parametrize("name", ["loader", "checkpoint"])
def test_missing_shards_are_told_in_one_line(tmp_path, name):
    done = benchmark(name, "--shards", tmp_path / "none")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "manifest.json" in done.stderr
