"""What a program can check in the documents: links, commands, files, and the options."""

import importlib.util
import re
from pathlib import Path

import pytest

from tools.configuration import COMMAND, document

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("benchmarks", "configs", "data", "docs", "regnet", "slurm", "tests", "tools")
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def code_lines(text):
    """Lines of indented or fenced code blocks, and inline code."""
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
    """The anchors of a page's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_module(name):
    """Whether python -m finds the module. This project's modules are looked up as files, without importing them."""
    path = ROOT.joinpath(*name.split("."))
    if (ROOT / name.partition(".")[0]).is_dir():
        return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    return importlib.util.find_spec(name) is not None


def test_the_documented_options_are_those_of_the_code():
    assert (ROOT / "docs" / "configuration.md").read_text() == document(), f"the options have changed, run: {COMMAND}"


@every_document
def test_links_of_documents_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("https://", "http://")):
            file, _, anchor = target.partition("#")
            linked = path.parent / file if file else path
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@every_document
def test_commands_and_files_that_documents_name_exist(path):
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text()
    added = re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)  # files that the document shows how to create
    for line in code_lines(text):
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
