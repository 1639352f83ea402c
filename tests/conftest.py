import functools
import os

# As make test says it, for those who start pytest themselves. With more threads torch 2.13 corrupts memory on CPUs with
# AVX-512: in the backward pass of a strided 1x1 convolution of the tests' 8 channels, for an odd number of images.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from images import convert_synthetic
from programs import ROOT, outcome, run, trainer

CIFAR100_ZIPS = ROOT.parent / "shared" / "cifar100"
LONGEST_GROUPS = ("image", "slurm", "real", "benchmarks", "report", "export")


def pytest_collection_modifyitems(items):
    """A group is one worker's alone, and workers take what is next: one that began late would be waited for."""

    def place(item):
        group = item.get_closest_marker("xdist_group")
        known = group is not None and group.args[0] in LONGEST_GROUPS
        return LONGEST_GROUPS.index(group.args[0]) if known else len(LONGEST_GROUPS)

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Which shards were verified is remembered in the user's cache; not in that of whoever runs the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """1,000 training and 200 validation images in three shards each."""
    return convert_synthetic(tmp_path_factory.mktemp("shards") / "three", 10, 3)


@pytest.fixture(scope="session")
def uninterrupted(shards, tmp_path_factory):
    """The outcome of a run that nothing happens to; one that several tests ask for is run once."""

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
        pytest.skip(f"no real CIFAR-100 in {CIFAR100_ZIPS}")
    folder = tmp_path_factory.mktemp("cifar100")
    for archive in sorted(CIFAR100_ZIPS.glob("*.zip")):
        with zipfile.ZipFile(archive) as images:
            images.extractall(folder)
    return folder
