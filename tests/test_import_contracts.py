"""The import contracts of pyproject.toml catch violations: each one planted here fails `lint-imports`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from limits import LIMIT
from processes import ROOT


@pytest.fixture
def tree(tmp_path):
    for package in ("regnet", "data", "commandline"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(tree):
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=LIMIT)


def test_the_import_contracts_hold(tree):
    done = lint_imports(tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("regnet/training/trainer.py", "data.open_loaders", "regnet/ and data/ never import each other"),
        ("data/open_loaders.py", "regnet.config.schema", "regnet/ and data/ never import each other"),
        ("commandline/errors.py", "regnet.errors", "commandline/ imports neither regnet/ nor data/"),
        ("regnet/models/regnet.py", "regnet.optim.muon", "regnet/ is layered"),
        ("data/augment/randaugment.py", "data.open_loaders", "data/ is layered"),
        ("regnet/evaluate.py", "regnet.doctor.findings", "only its own command imports the doctor"),
    ],
    ids=lambda value: value,
)
def test_a_planted_violation_is_found(tree, module, imported, contract):
    with open(tree / module, "a", encoding="utf-8") as file:
        file.write(f"\nimport {imported}  # planted\n")
    done = lint_imports(tree)
    assert done.returncode != 0
    assert any(line.startswith(contract) and " BROKEN" in line for line in done.stdout.splitlines()), done.stdout


def test_a_new_module_must_be_given_a_layer(tree):
    (tree / "regnet" / "unplaced.py").write_text("")
    done = lint_imports(tree)
    assert done.returncode != 0
    assert "unplaced" in done.stdout + done.stderr
