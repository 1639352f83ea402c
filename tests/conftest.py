"""Fixtures of all tests."""

import functools
import os
import signal
from pathlib import Path

# make test sets this too. With more threads torch 2.13 corrupts memory on CPUs with AVX-512: in the backward pass of a
# strided 1x1 convolution with 8 channels, as in the tests, for an odd number of images.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from limits import TEST_TIMEOUT  # measures the import of torch, so before any other import of it

# isort: split
import pytest
import thoroughness  # noqa: F401  # registers the profiles
from hypothesis import settings
from images import convert_synthetic
from processes import ROOT, run, trainer
from run_directory import outcome

CIFAR100_ZIPS = ROOT.parent / "shared" / "cifar100"
LONGEST_GROUPS = ("image", "slurm", "real", "benchmarks", "report", "export")


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="also run the tests marked thorough, and try more cases")


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # As in a shell's background jobs, whose processes inherit it; tests send them SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.load_profile("thorough" if config.getoption("thorough") else "quick")


def pytest_collection_modifyitems(config, items):
    """Deselects thorough tests in a quick run, limits the duration of a test, and puts the longest xdist groups first.

    One worker runs a whole group, so a late start would delay the end.
    """
    if not config.getoption("thorough"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("thorough")])
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    for item in items:
        item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))

    def position(item):
        group = item.get_closest_marker("xdist_group")
        known = group is not None and group.args[0] in LONGEST_GROUPS
        return LONGEST_GROUPS.index(group.args[0]) if known else len(LONGEST_GROUPS)

    items.sort(key=position)


def pytest_runtest_setup(item):
    """Skips tests that need a GPU where there is none; `-m gpu` selects exactly those tests."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory):
    """Keeps the record of verified shards out of the user's cache directory."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def one_thread():
    """On busy cores, several threads of a network mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """1,000 training and 200 validation images in three shards each.

    TEST_SHARDS names a directory with such shards, converted elsewhere with --source synthetic --per-class 10
    --shards 3, for machines without FFCV.
    """
    if "TEST_SHARDS" in os.environ:
        return Path(os.environ["TEST_SHARDS"])
    return convert_synthetic(tmp_path_factory.mktemp("shards") / "three", 10, 3)


@pytest.fixture(scope="session")
def uninterrupted(shards, tmp_path_factory):
    """The outcome of an uninterrupted run with the given flags; cached for the session."""

    @functools.cache
    def outcome_of(*flags, processes=0):
        folder = tmp_path_factory.mktemp("uninterrupted")
        done = run(trainer(folder, shards, *flags, processes=processes))
        assert done.returncode == 0, done.stderr
        return outcome(folder / "tiny")

    return outcome_of


@pytest.fixture(scope="session")
def real_cifar100(tmp_path_factory):
    """The real CIFAR-100 as train/ and test/ class folders."""
    import zipfile

    if not CIFAR100_ZIPS.is_dir():
        pytest.skip(f"real CIFAR-100 not found in {CIFAR100_ZIPS}")
    folder = tmp_path_factory.mktemp("cifar100")
    for archive in sorted(CIFAR100_ZIPS.glob("*.zip")):
        with zipfile.ZipFile(archive) as images:
            images.extractall(folder)
    return folder


@pytest.fixture
def writers(tmp_path, monkeypatch):
    """The ids of the writer processes that a fault has recorded."""
    folder = tmp_path / "writers"
    folder.mkdir()
    monkeypatch.setenv("WRITERS", str(folder))
    return lambda: [int(path.name) for path in folder.iterdir()]
