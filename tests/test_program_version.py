"""The git commit that a run records: of a clone, with changes, and where there is none."""

import os
import subprocess

import pytest
from limits import LIMIT

from regnet.runs.program_version import describe_program, git_commit


@pytest.fixture
def clone(tmp_path):
    """A repository with one file and one commit."""
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "file").write_text("one")
    for command in (("init", "-q"), ("add", "file"), ("commit", "-qm", "one"), ("tag", "-am", "a tag", "v1")):
        git(tmp_path / "clone", *command)
    return tmp_path / "clone"


def git(directory, *command):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    done = subprocess.run(["git", *identity, *command], cwd=directory, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_commit_is_that_of_the_clone_and_says_whether_files_were_changed(clone):
    commit = git(clone, "rev-parse", "HEAD")
    assert git_commit(clone) == commit, "the commit rather than the tag"
    (clone / "untracked").write_text("")
    assert git_commit(clone) == commit
    (clone / "file").write_text("two")
    assert git_commit(clone) == f"{commit}-dirty"


def test_an_installed_package_has_no_commit_even_within_another_repository(clone):
    (clone / "site-packages").mkdir()
    assert git_commit(clone / "site-packages") == ""


def test_without_git_there_is_no_commit(clone, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert git_commit(clone) == ""
    assert {"host", "python"} <= describe_program().keys()
