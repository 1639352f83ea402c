"""The wheel: its metadata and contents, and the commands that it installs."""

import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import yaml
from fork_server import ForkedCommand
from limits import LIMIT
from processes import ROOT, environment, run

pytestmark = pytest.mark.xdist_group("packaging")  # the wheel is built once

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = {
    f"regnet-{name}"
    for name in ("convert", "doctor", "evaluate", "export", "predict", "report", "runs", "summary", "sweep", "train")
}
# Stands in for torch: says whether a SIGTERM would be handled while torch is imported.
TORCH = "import signal; print('handled:', signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL); raise SystemExit"


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment(PIP_NO_INDEX="1"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what is packaged: a build leaves files in the source tree."""
    source = tmp_path_factory.mktemp("source")
    for file in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "train_ddp.py"):
        copy(ROOT / file, source)
    for package in ("regnet", "data", "commandline"):
        copytree(ROOT / package, source / package, ignore=ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


@pytest.fixture(scope="module")
def distribution(installed) -> Distribution:
    return next(distributions(name="regnet-ddp", path=[str(installed)]))


@pytest.fixture(scope="module")
def metadata(distribution) -> Message:
    return Parser().parsestr(distribution.read_text("METADATA") or "")


def run_installed(installed: Path, *command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """From another directory, so that nothing is imported from the repository."""
    found = environment(PYTHONPATH=f"{path}:{installed}" if path else str(installed))
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=found, cwd=installed.parent)


@pytest.mark.thorough
def test_metadata_names_the_licence_and_the_readme(metadata):
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_licence_text_is_in_the_wheel(distribution):
    assert distribution.read_text("licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_dependencies_are_those_of_requirements_txt(metadata):
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert metadata.get_all("Requires-Dist") == [line for line in lines if line]


def test_the_wheel_has_every_module_and_the_files_of_the_report(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = ("regnet", "data", "commandline")
    modules = [path for package in packages for path in (ROOT / package).rglob("*.py")] + [ROOT / "train_ddp.py"]
    report_files = {f"regnet/report/{name}" for name in ("template.html", "report.css", "report.js")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in modules} | report_files


def test_every_console_script_can_be_called(installed, distribution):
    assert {script.name for script in distribution.entry_points} == COMMANDS
    check = (
        "from importlib.metadata import distribution; import regnet; print(regnet.__file__)\n"
        "for script in distribution('regnet-ddp').entry_points: assert callable(script.load()), script"
    )
    done = run_installed(installed, sys.executable, "-c", check)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_an_editable_installation_imports_the_clone_from_any_directory(source, tmp_path):
    pip("install", "--no-deps", "--no-build-isolation", "--prefix", str(tmp_path / "prefix"), "--editable", str(source))
    (site,) = (tmp_path / "prefix").glob("lib/python*/site-packages")
    check = (
        f"import site; site.addsitedir({str(site)!r})\n"
        "import importlib.util, commandline, data, regnet\n"
        "for module in (commandline, data, regnet): print(module.__file__)\n"
        "print(importlib.util.find_spec('train_ddp').origin)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=LIMIT, env=environment(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [Path(line).is_relative_to(source) for line in done.stdout.splitlines()] == [True] * 4, done.stdout


def test_console_scripts_print_help_and_return_the_exit_code(installed):
    scripts = installed / "bin"
    helped = run_installed(installed, str(scripts / "regnet-runs"), "--help")
    assert helped.returncode == 0, helped.stderr
    assert "usage:" in helped.stdout
    rejected = run_installed(installed, str(scripts / "regnet-runs"), "absent")
    assert rejected.returncode == 2, rejected.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_console_script_is_the_command_of_its_name(installed, command):
    done = run(ForkedCommand([str(installed / "bin" / command), "--help"]))
    assert done.returncode == 0, done.stderr
    name = command.removeprefix("regnet-")
    program = {"train": "train_ddp.py", "convert": "python -m data.convert"}.get(name, f"python -m regnet.{name}")
    assert done.stdout.startswith(f"usage: {program} ")


@pytest.mark.parametrize("command", ["regnet-train", "regnet-evaluate", "regnet-summary"])
def test_console_scripts_handle_signals_before_they_import_torch(installed, tmp_path, command):
    (tmp_path / "torch.py").write_text(TORCH)
    done = run_installed(installed, str(installed / "bin" / command), path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "handled: True\n"


def test_the_citation_file_agrees_with_the_metadata():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    for field in ("version", "license"):
        assert citation[field] == PROJECT[field]
    assert citation["title"] == PROJECT["name"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
