"""slurm/site.env is site code: it need not be written for `set -eu`, and what is wrong with it is said in a line."""

import os
import shutil
import subprocess

import pytest
from limits import LIMIT
from processes import ROOT

SITE = """
setup() {{
    {setup}
}}
CONTAINER=()
LOCAL_CACHE_DIR=
MAX_FAILED_ATTEMPTS=3
RETRY_DELAY=15
{settings}
"""
# What the job scripts, slurm/node.sh and slurm/rank.sh do first.
SCRIPT = """
. slurm/lib.sh
load_site
set -euo pipefail
echo started
"${prefix[@]}" printf '[%s]' prefix "$VARIABLE"
"""


@pytest.fixture
def load(tmp_path):
    """Loads a site.env with this body of setup() and these settings; returns the exit code and the lines printed."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm")

    def load(setup=":", settings=""):
        (tmp_path / "slurm" / "site.env").write_text(SITE.format(setup=setup, settings=settings))
        env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "VARIABLE": "a b"}
        script = ["bash", "-c", SCRIPT]
        done = subprocess.run(script, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT)
        return done.returncode, [line.rpartition("n1] ")[2] for line in done.stdout.splitlines()]

    return load


@pytest.mark.parametrize(
    ("setup", "settings"),
    [
        ('export A="$UNSET"', ""),
        ("false; grep nothing /dev/null | cat; no_such_module load cuda; true", ""),
        ("[ -d /no/such/place ] && cd /no/such/place; return 0", ""),
        (":", "CONTAINER=(env -u UNSET) LOCAL_CACHE_DIR=$SCRATCH/shards"),
        (":", "unset LOCAL_CACHE_DIR"),
    ],
)
def test_site_code_need_not_be_written_for_strict_shells(load, setup, settings):
    assert load(setup, settings) == (0, ["started", "[prefix][a b]"])


@pytest.mark.parametrize(
    ("setup", "settings", "message"),
    [
        ("no_such_module load cuda", "", "setup() in slurm/site.env failed with exit code 127, see the error above;"),
        (
            "[ -d /no/such/place ] && echo",
            "",
            "failed with exit code 1, see the error above; if there is none, its last",
        ),
        (". .venv/bin/activate", "", "setup() in slurm/site.env failed with exit code 1"),
        ("exit 3", "", "slurm/site.env ended the script with exit code 3: setup() must return, not exit"),
        ("set -e; false; true", "", "slurm/site.env ended the script with exit code 1"),
        (
            ":",
            'CONTAINER="apptainer exec x.sif"',
            "'apptainer exec x.sif', the first word of CONTAINER, is not a command",
        ),
        (":", "unset CONTAINER; CONTAINER=x", "CONTAINER must be an array"),
        ("cd /", "", "slurm/site.env changed the directory to /: it must return to"),
        (":", "MAX_FAILED_ATTEMPTS=three", "MAX_FAILED_ATTEMPTS must be a positive integer, got 'three'"),
        (":", "X='", "slurm/site.env is not valid, see the error above"),
        (":", "RETRY_DELAY=", "RETRY_DELAY must be a number of seconds, got ''"),
    ],
)
def test_unusable_settings_end_the_job_with_one_line(load, setup, settings, message):
    status, (line,) = load(setup, settings)
    assert status == 2
    assert message in line


def test_the_scripts_need_no_bash_newer_than_4_2():
    """Red Hat 7 has 4.2, where `set -u` rejects empty arrays, and `wait -n`, `${x@Q}` and `local -n` do not exist."""
    scripts = [*(ROOT / "slurm").glob("*.sh"), *(ROOT / "slurm").glob("*.sbatch")]
    code = [line.partition(" # ")[0] for path in scripts for line in path.read_text().splitlines() if line[:1] != "#"]
    for newer in ("wait -n", "wait -f", "@Q}", "local -n", "declare -n", "mapfile -d", "inherit_errexit"):
        assert not any(newer in line for line in code), newer
    assert [line.strip() for line in code if "${CONTAINER[@]}" in line] == ['prefix=(env "${CONTAINER[@]}")']
