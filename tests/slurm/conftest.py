import shutil
import sys
from pathlib import Path

import pytest
from cluster import Cluster, NoCluster
from programs import ROOT


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    try:
        started = Cluster(tmp_path_factory.mktemp("cluster"))
    except NoCluster as why:
        pytest.skip(f"no SLURM here: {why}")
    yield started
    started.close()


@pytest.fixture
def site(tmp_path):
    """The project's folder as a user has it, with a site.env of its own; log files go here."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("train_ddp.py", "regnet", "data", "configs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "slurm", folder / "slurm")
    environment = folder / "slurm" / "site.env"
    text = environment.read_text()
    changed = {
        ". .venv/bin/activate": f'export PATH="{Path(sys.executable).parent}:$PATH" OMP_NUM_THREADS=1',
        "PAUSE=15": "PAUSE=1",
    }
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    environment.write_text(text)
    return folder
