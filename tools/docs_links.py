"""MkDocs hook: links out of docs/ work on the site as they do on GitHub.

README.md, CHANGELOG.md and CONTRIBUTING.md become pages of the site. Any other linked file of the repository is
published as it is, under repository/. A link to a directory becomes plain text. A link to what does not exist is not
changed: MkDocs reports it, and a strict build fails.
"""

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: name.lower() for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")}
_TEXT_LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s#]+)\)")
_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)")
_HTML_LINK = re.compile(r'(?P<before>\b(?:href|src|srcset)=")(?P<target>[^"\s#]+)')
_EXTERNAL = re.compile(r"[a-z]+:|/", re.IGNORECASE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    folder = Path(page.file.abs_src_path).parent

    def path_of(link: re.Match[str]) -> Path | None:
        """What a link leads to, if that is in the repository."""
        path = (folder / unquote(link["target"])).resolve()
        return path if path.is_relative_to(ROOT) and not _EXTERNAL.match(link["target"]) else None

    def without_directory(link: re.Match[str]) -> str:
        path = path_of(link)
        return link["text"] if path is not None and path.is_dir() else link[0]

    def file_of(link: re.Match[str]) -> File | None:
        path = path_of(link)
        return _published(path, config, files) if path is not None and path.is_file() else None

    def in_markdown(link: re.Match[str]) -> str:  # from source to source: MkDocs makes a URL of it
        file = file_of(link)
        if file is None:
            return link[0]
        return link["before"] + posixpath.relpath(file.src_uri, posixpath.dirname(page.file.src_uri))

    def in_html(link: re.Match[str]) -> str:  # from URL to URL: MkDocs does not look at raw HTML
        file = file_of(link)
        return link[0] if file is None else link["before"] + file.url_relative_to(page.file)

    return _HTML_LINK.sub(in_html, _LINK.sub(in_markdown, _TEXT_LINK.sub(without_directory, markdown)))


def _published(path: Path, config: MkDocsConfig, files: Files) -> File | None:
    """The site's file for one of the repository, added if it is not there yet; None if docs/ excludes it."""
    if path.is_relative_to(config.docs_dir):
        return files.get_file_from_path(path.relative_to(config.docs_dir).as_posix())
    name = path.relative_to(ROOT).as_posix()
    uri = PAGES.get(name, f"repository/{name}")
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files.get_file_from_path(uri)
