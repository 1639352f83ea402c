"""The benchmark of the time from the launch to the first step."""

import json

import pytest
from processes import PYTHON, ROOT, TINY, run

pytestmark = pytest.mark.xdist_group("benchmarks")


def run_benchmark(shards, *options):
    return run([*PYTHON, "-m", "benchmarks.start", "--config", str(TINY), "--shards", str(shards), *map(str, options)])


@pytest.mark.thorough
def test_two_checkouts_start_in_turns_and_are_compared(shards, tmp_path):
    report, other = tmp_path / "report.json", tmp_path / "other"
    other.symlink_to(ROOT)
    done = run_benchmark(shards, ROOT, other, "--rounds", 1, "--json", report)
    assert done.returncode == 0, done.stderr
    measured = json.loads(report.read_text())["results"]
    for what in ("seconds", "CPU seconds"):
        one, two = measured[what][str(ROOT)], measured[what][str(other)]
        assert min(one["median"], two["median"]) > 0
        assert measured[what][f"{other} ratio"]["rounds"] == [two["rounds"][0] / one["rounds"][0]]
        assert f"{what}, {other} ratio: " in done.stdout


def test_the_time_of_the_imports_is_shown_by_package(shards):
    done = run_benchmark(shards, "--imports")
    assert done.returncode == 0, done.stderr
    assert f"{ROOT}: all " in done.stdout
    assert ", torch " in done.stdout


def test_a_trainer_that_does_not_start_is_reported_with_its_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run([*PYTHON, "-m", "benchmarks.start", "--shards", str(tmp_path), "--rounds", "1"])
    assert done.returncode == 1
    assert f"no first step: error: {tmp_path}: no manifest.json" in done.stderr
