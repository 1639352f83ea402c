"""The documentation site, where `make docs` has installed what builds it."""

import shutil
import subprocess
import sys

import pytest
from limits import LIMIT
from processes import ROOT, environment

pytest.importorskip("mkdocs", reason="needs requirements-docs.txt")
pytestmark = pytest.mark.xdist_group("site")

LINKS = """
[a file](../configs/best.yaml), [its code](../configs/best.yaml#L1), [a folder](../configs/models/) and
[the README](../README.md), <a href="../LICENSE">raw HTML</a>, [![an image](pictures/report.png)](../Makefile)
"""


@pytest.fixture
def repository(tmp_path):
    """A copy of what the site is made of, with some links that leave docs/."""
    for folder in ("configs", "benchmarks", "docs", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    with (tmp_path / "docs" / "data.md").open("a") as file:
        file.write(LINKS)
    return tmp_path


def build(repository):
    """The exit code, and all that was printed."""
    command = (sys.executable, "-m", "mkdocs", "build")  # not --quiet, with which warnings do not fail it
    clean = environment(NO_MKDOCS_2_WARNING="1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=repository, env=clean)
    return done.returncode, done.stdout + done.stderr


def test_links_out_of_docs_lead_to_published_files_and_pages(repository):
    status, printed = build(repository)
    assert status == 0, printed
    page = (repository / "site" / "data" / "index.html").read_text()
    assert '<a href="../repository/configs/best.yaml">a file</a>' in page
    assert '<a href="../repository/configs/best.yaml#L1">its code</a>' in page
    assert "its code</a>, a folder and" in page
    assert '<a href="../readme/">the README</a>' in page
    assert '<a href="../repository/LICENSE">raw HTML</a>' in page
    assert '<a href="../repository/Makefile"><img alt="an image" src="../pictures/report.png" /></a>' in page
    for name in ("configs/best.yaml", "LICENSE", "Makefile"):
        assert (repository / "site" / "repository" / name).read_bytes() == (repository / name).read_bytes()


@pytest.mark.parametrize(
    ("document", "target"),
    [
        ("docs/data.md", "absent.md"),
        ("docs/data.md", "../configs/absent.yaml"),
        ("docs/data.md", "../absent/"),
        ("docs/data.md", "checkpoints.md#absent"),
        ("docs/data.md", "../README.md#absent"),
        ("README.md", "docs/absent.md"),
    ],
)
def test_a_link_to_what_does_not_exist_fails_the_build(repository, document, target):
    with (repository / document).open("a") as file:
        file.write(f"\n[a link]({target})\n")
    status, printed = build(repository)
    assert status == 1, printed
    assert "absent" in printed
    assert "Aborted with 1 warnings" in printed


def test_a_document_that_is_not_in_the_navigation_fails_the_build(repository):
    (repository / "docs" / "orphan.md").write_text("# Orphan\n")
    status, printed = build(repository)
    assert status == 1, printed
    assert "orphan.md" in printed
    assert "Aborted with 1 warnings" in printed
