import shutil
import sys
from pathlib import Path

import pytest
from cluster import Cluster, ClusterUnavailable
from processes import ROOT


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    try:
        running = Cluster(tmp_path_factory.mktemp("cluster"))
    except ClusterUnavailable as error:
        pytest.skip(f"SLURM cannot run here: {error}")
    yield running
    running.close()


@pytest.fixture
def site(tmp_path):
    """A user's project directory with its own site.env; SLURM writes its log files here."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("train_ddp.py", "commandline", "regnet", "data", "configs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "slurm", folder / "slurm")
    site_env = folder / "slurm" / "site.env"
    text = site_env.read_text()
    replacements = {
        ". .venv/bin/activate": f'export PATH="{Path(sys.executable).parent}:$PATH" OMP_NUM_THREADS=1',
        "RETRY_DELAY=15": "RETRY_DELAY=1",
    }
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    site_env.write_text(text)
    return folder
