"""The examples in docs/extending.md: every diff applies, its test passes, and fails once the new code is broken."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from limits import LIMIT
from processes import ROOT, environment
from thoroughness import parametrize_some

pytestmark = pytest.mark.xdist_group("extending")  # which starts the runner once

COPIED = (
    "benchmarks",
    "commandline",
    "configs",
    "data",
    "docs",
    "regnet",
    "tests",
    "tools",
    "pyproject.toml",
    "train_ddp.py",
)
DOCUMENT = (ROOT / "docs" / "extending.md").read_text()
CHAPTERS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
EXAMPLES = {title: text for title, text in CHAPTERS.items() if "```diff" in text}
# Runs pytest in processes that are forked after the slow imports, but before any of this project's modules.
RUNNER = """
import json, os, sys
import hypothesis, numpy, pytest, torch._dynamo

for line in sys.stdin:
    tree, arguments = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(tree)
        sys.path.insert(0, tree)
        output = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os._exit(pytest.main(arguments))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run_pytest():
    """Runs pytest in a copy of the project; returns its exit code and what it printed."""
    # A broken file may have the size and the second of the one before, so that stale bytecode would be used.
    clean = environment(PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-c", RUNNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean) as runner:

        def run_pytest(tree, arguments):
            print(json.dumps([str(tree), arguments]), file=runner.stdin, flush=True)
            return int(runner.stdout.readline()), (tree / "output.txt").read_text()

        yield run_pytest
        runner.stdin.close()


@pytest.fixture
def tree(tmp_path):
    """A copy of the project."""
    # Other processes compile modules at the same time: *.pyc.NUMBER is renamed before it can be copied.
    ignored = shutil.ignore_patterns("results", ".hypothesis", "*.pyc.*")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def shell(tree, command, text=""):
    """Runs a command of the document in the copy, with this environment's Python."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    clean = environment(PATH=path, GIT_CEILING_DIRECTORIES=str(tree.parent), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(
        ["bash", "-c", command], cwd=tree, env=clean, input=text, text=True, capture_output=True, timeout=LIMIT
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@parametrize_some("title", EXAMPLES)
def test_the_diff_applies_and_its_test_fails_only_for_broken_code(tree, run_pytest, title):
    (diff,) = re.findall(r"^```diff\n(.*?)^```", EXAMPLES[title], re.MULTILINE | re.DOTALL)
    *options, tests, break_code = re.findall(r"^    \$ (.*)$", EXAMPLES[title], re.MULTILINE)
    shell(tree, "git apply -", diff)
    changed = re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)
    modules = " ".join(name for name in changed if name.endswith(".py"))
    shell(tree, f"ruff check {modules} && ruff format --check {modules}")
    for command in options:
        shell(tree, command)
    new_option = "regnet/config/schema.py" in changed
    documented = (tree / "docs" / "configuration.md").read_bytes() != (ROOT / "docs" / "configuration.md").read_bytes()
    assert documented == new_option
    assert tests.startswith("python -m pytest "), tests
    arguments = shlex.split(tests)[3:]
    code, output = run_pytest(tree, arguments)
    assert code == pytest.ExitCode.OK, output
    shell(tree, break_code)
    code, output = run_pytest(tree, arguments)
    assert code == pytest.ExitCode.TESTS_FAILED, output


@pytest.mark.parametrize("title", CHAPTERS)
def test_the_table_of_contents_names_the_files_that_the_diff_changes(title):
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    (row,) = re.findall(rf"^\| \[.*\]\(#{anchor}\) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    changed = re.findall(r"^--- a/(\S+)$", CHAPTERS[title], re.MULTILINE)
    assert sorted(re.findall(r"`([\w/]+\.py)`", row)) == sorted(changed)
