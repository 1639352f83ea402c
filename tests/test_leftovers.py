"""What commands leave behind: no temporary files, no open files."""

import gc
import os
import tempfile
import warnings
from pathlib import Path

import pytest
from processes import PYTHON, run

from data.manifest import read_manifest
from data.reading.mmap_shards import MappedShards
from regnet.report.matplotlib_cache import matplotlib_cache

# As the trainer does: matplotlib is imported at the end, and the process exits without Python's clean-up.
IMPORT_MATPLOTLIB = """
import os
from regnet.report.matplotlib_cache import matplotlib_cache
with matplotlib_cache():
    import matplotlib.font_manager
    print(matplotlib.get_cachedir(), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("variables", "inside"),
    [
        ({"HOME": "file/home"}, "temporary"),
        ({"HOME": "home"}, "home/.cache/matplotlib"),
        ({"HOME": "file/home", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"}, "cache/matplotlib"),
        ({"HOME": "home", "MPLCONFIGDIR": "chosen"}, "chosen"),
        ({"HOME": "home", "MPLCONFIGDIR": "file/chosen"}, "temporary"),
    ],
)
def test_a_run_leaves_no_temporary_files_of_matplotlib_and_no_warnings(tmp_path, variables, inside):
    (tmp_path / "file").touch()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    found = {"MPLCONFIGDIR": "", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    found |= {name: str(tmp_path / path) for name, path in variables.items()}
    done = run([*PYTHON, "-c", IMPORT_MATPLOTLIB], TMPDIR=str(temporary), **found)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / inside)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("before", [None, "", "file/chosen"])
def test_matplotlibs_variable_has_its_value_again(tmp_path, monkeypatch, before):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    environment = dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME")) | {"HOME": "file/home", "MPLCONFIGDIR": before}
    for name, value in environment.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with matplotlib_cache():
        directory = Path(os.environ["MPLCONFIGDIR"])
        assert directory.is_dir()
    assert os.environ.get("MPLCONFIGDIR") == before
    assert not directory.exists()


# In a container: no HOME, and no entry in /etc/passwd.
WITHOUT_HOME = """
import os, sys
from regnet.report.matplotlib_cache import matplotlib_cache
for name in ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
    os.environ.pop(name, None)
os.setuid(54321)
os.chdir(sys.argv[1])
with matplotlib_cache():
    print(os.environ["MPLCONFIGDIR"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_user_without_a_home_directory_gets_a_temporary_one():
    with tempfile.TemporaryDirectory() as current:
        os.chmod(current, 0o777)
        done = run([*PYTHON, "-c", WITHOUT_HOME, current], TMPDIR=current)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{current}/regnet-matplotlib-")
        assert os.listdir(current) == [], "not even a directory called ~"


def test_the_immediate_exit_removes_temporary_directories(tmp_path):
    code = (
        "import tempfile; from commandline.exit_codes import exit_process\n"
        "kept = tempfile.TemporaryDirectory(); open(kept.name + '/file', 'w').close(); exit_process(3)"
    )
    done = run([*PYTHON, "-c", code], TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert list(tmp_path.iterdir()) == []


def test_files_of_shards_are_closed_before_python_warns(shards):
    manifest = read_manifest(shards)
    open_before = os.listdir("/proc/self/fd")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        mapped = MappedShards(shards, manifest, "val")
        assert len(os.listdir("/proc/self/fd")) > len(open_before)
        del mapped
        gc.collect()
    assert os.listdir("/proc/self/fd") == open_before
    assert [str(warning.message) for warning in found] == []
