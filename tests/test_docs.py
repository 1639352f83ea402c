"""What the documents say that a program can check: links, commands, files, and the options."""

import importlib.util
import re
from pathlib import Path

import pytest

from tools.configuration import COMMAND, document

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("benchmarks", "configs", "data", "docs", "regnet", "slurm", "tests", "tools")
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def code(text):
    """Lines of indented or fenced blocks, and what stands between backticks."""
    lines, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line)
        else:
            lines += re.findall(r"`([^`]+)`", line)
    return lines


def anchors(path):
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_module(name):
    """Whether python -m would find it; ours must be there as files, and nothing of them is imported."""
    place = ROOT.joinpath(*name.split("."))
    if (ROOT / name.partition(".")[0]).is_dir():
        return place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
    return importlib.util.find_spec(name) is not None


def test_the_options_are_those_of_the_code():
    assert (ROOT / "docs" / "configuration.md").read_text() == document(), f"the options have changed: {COMMAND}"


@every_document
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("https://", "http://")):
            file, _, anchor = target.partition("#")
            place = path.parent / file if file else path
            assert place.exists(), target
            assert not anchor or anchor in anchors(place), target


@every_document
def test_commands_and_files_exist(path):
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text()
    added = re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)  # by what the document shows how to do
    for line in code(text):
        for module in re.findall(r"\bpython -m ([\w.]+\w)", line):
            assert is_module(module), line
        for rule in re.findall(r"(?:^ *|\$ |&& )make ([a-z][\w-]*)", line):
            assert rule in rules, line
        for script in re.findall(r"(?:python|nproc_per_node=\w+) (\w[\w/]*\.py)", line):
            assert (ROOT / script).is_file(), line
        for file in re.findall(rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})/[\w/.-]*\w\.\w+)", line):
            assert file in added or (ROOT / file).is_file(), line
        for test in re.findall(r"^test_\w+$", line):
            assert (ROOT / "tests" / f"{test}.py").is_file(), line
