"""Build the pages as a site, by Zensical, and check every link in it: python docs/build_site.py (make docs).

    build/docs/pages/          the pages and the files that they link to, at their paths in the repository
    build/docs/zensical.toml   the configuration; its navigation is the sections and links of docs/index.md
    build/docs/site/           the site

Links work in the repository and in the site alike, since paths stay.  Only a link to a folder is changed, into a page
that lists the folder's files, and a link that shows a file's name: it shows the title of the page.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import tomli_w
from reference import write_pages

REPOSITORY = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FILE_NAME = re.compile(r"\[[\w./-]+\.md\]\(([^)\s#]+\.md)\)")
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
HOME = "README.md"
INDEX = "docs/index.md"
REFERENCE = ["docs/commands.md", "docs/api.md", "docs/datasets.md"]
EXTRA_CSS, EXTRA_JAVASCRIPT = ["docs/site.css"], ["docs/site.js"]

Nav = list[dict[str, Any]]


# pages


def copy_pages(repository: Path, pages: Path) -> list[str]:
    """Copy README.md, docs/*.md and all that they link to, directly or through other pages; return the dead links."""
    waiting = [HOME, *(path.relative_to(repository).as_posix() for path in sorted((repository / "docs").glob("*.md")))]
    seen = set(waiting)
    problems = []
    while waiting:
        page = waiting.pop()
        source, target = repository / page, pages / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target = target / "index.md"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(folder_page(source, page), encoding="utf-8")
            linked = [f"{page}/{path.name}" for path in files_of(source)]
        elif source.suffix != ".md":
            shutil.copyfile(source, target)
            linked = []
        else:
            text = source.read_text(encoding="utf-8")
            linked = [path for _, path in links_of(text, page)]
            problems += [f"{page} links to {path}" for path in linked if not (repository / path).exists()]
            text = with_titles(with_folder_pages(text, page, repository), source.parent)
            target.write_text(text, encoding="utf-8")
        new = [path for path in linked if path not in seen and (repository / path).exists()]
        seen.update(new)
        waiting += new
    return problems


def links_of(text: str, page: str) -> Iterator[tuple[str, str]]:
    """Yield (link, path in the repository) of each relative link outside of code."""
    for _, link, _ in LINK.findall(CODE.sub("", text)):
        if not urlsplit(link).scheme:
            yield link, posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def with_folder_pages(text: str, page: str, repository: Path) -> str:
    """Return a page whose links to folders lead to the pages that list them."""
    folders = {link for link, path in links_of(text, page) if (repository / path).is_dir()}

    def changed(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2].rstrip('/')}/index.md{match[3]}" if match[2] in folders else match[0]

    pieces = CODE.split(text)
    return "".join(piece if piece.startswith("`") else LINK.sub(changed, piece) for piece in pieces)


def with_titles(text: str, folder: Path) -> str:
    """Return a page whose links that show a file's name ([pool.md](pool.md)) show the title of its page."""

    def changed(match: re.Match[str]) -> str:
        path = folder / match[1]
        return f"[{title_of(path)}]({match[1]})" if path.is_file() else match[0]

    pieces = CODE.split(text)
    return "".join(piece if piece.startswith("`") else FILE_NAME.sub(changed, piece) for piece in pieces)


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


def folder_page(folder: Path, path: str) -> str:
    return "\n".join([f"# {path}", "", *(f"- [{file.name}]({file.name})" for file in files_of(folder)), ""])


# navigation


def navigation(pages: Path) -> Nav:
    """Return the navigation: a group per section of docs/index.md, its pages in the order of their links there."""
    sections = re.split(r"^## ", (pages / INDEX).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    nav: Nav = [{"worldclip": HOME}, {"All pages": INDEX}]
    seen = {INDEX}
    for section in sections:
        linked = [path for _, path in links_of(section, INDEX) if path.endswith(".md")]
        new = [path for path in dict.fromkeys(linked) if path not in seen]
        seen.update(new)
        nav.append({section.splitlines()[0]: [{title_of(pages / path): path} for path in new]})
    nav.append({"Reference": [{title_of(pages / path): path} for path in REFERENCE]})
    return nav


def title_of(page: Path) -> str:
    """Return the heading of a page; of a stage's, `1 metadata: sources -> entries`, what stands before the colon."""
    match = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    heading = match[1].replace("`", "") if match else page.stem
    return heading.partition(":")[0] if " -> " in heading else heading


def pages_without_place(pages: Path, nav: Nav) -> list[str]:
    """Return the pages of docs/ that the navigation lacks."""
    places = re.findall(r"docs/[\w./]+\.md", str(nav))
    names = [path.relative_to(pages).as_posix() for path in sorted((pages / "docs").glob("*.md"))]
    return [f"{name} is not linked in {INDEX}; add it to a section" for name in names if name not in places]


# links of the site


class Names(HTMLParser):
    """The addresses that a page refers to, those of them that it loads by itself, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.addresses.append(value)
                if tag != "a":
                    self.loaded.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def dead_links(site: Path) -> list[str]:
    """Return a line per link, anchor, image, style or script of a page that leads to nothing within the site."""
    names = {
        path.relative_to(site).as_posix(): Names(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")
    }
    problems = []
    for page, found in sorted(names.items()):
        for address in dict.fromkeys(found.addresses):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in found.loaded and parts.scheme != "data":
                    problems.append(f"{page}: {address} is loaded from another host")
                continue
            path = page
            if parts.path:
                folder = "" if parts.path.startswith("/") else posixpath.dirname(page)
                path = posixpath.normpath(posixpath.join(folder, unquote(parts.path).lstrip("/")))
            if (site / path).is_dir():
                path = str(PurePosixPath(path) / "index.html")
            if not (site / path).is_file():
                problems.append(f"{page}: {address} leads to no file")
            elif parts.fragment and path in names and unquote(parts.fragment) not in names[path].anchors:
                problems.append(f"{page}: {address} leads to no anchor")
    return problems


# the build


def configuration(nav: Nav) -> dict[str, Any]:
    """Return the configuration: no file of another host, and the anchors that GitHub makes of headings."""
    palette = [
        {"media": "(prefers-color-scheme)", "toggle": {"icon": "lucide/sun-moon", "name": "Light"}},
        {
            "media": "(prefers-color-scheme: light)",
            "scheme": "default",
            "toggle": {"icon": "lucide/sun", "name": "Dark"},
        },
        {
            "media": "(prefers-color-scheme: dark)",
            "scheme": "slate",
            "toggle": {"icon": "lucide/moon", "name": "As the system"},
        },
    ]
    return {
        "project": {
            "site_name": "worldclip",
            "site_description": "CLIP for the whole world: curate, train, measure, export",
            "docs_dir": "pages",
            "site_dir": "site",
            "use_directory_urls": False,
            "nav": nav,
            "extra_css": EXTRA_CSS,
            "extra_javascript": EXTRA_JAVASCRIPT,
            "theme": {
                "language": "en",
                "font": False,
                "features": ["content.code.copy", "navigation.footer", "navigation.sections", "navigation.top"],
                "palette": palette,
            },
            "markdown_extensions": {
                "md_in_html": {},
                "sane_lists": {},
                "toc": {"permalink": True, "slugify": {"object": "pymdownx.slugs.slugify", "kwds": {"case": "lower"}}},
                "pymdownx": {"highlight": {"pygments_lang_class": True}, "inlinehilite": {}, "superfences": {}},
            },
        }
    }


def build(out: Path) -> list[str]:
    """Build the site into `out`; return what is wrong with it."""
    pages = out / "pages"
    shutil.rmtree(out, ignore_errors=True)
    problems = copy_pages(REPOSITORY, pages)
    write_pages(pages / "docs")
    for name in (*EXTRA_CSS, *EXTRA_JAVASCRIPT):
        shutil.copyfile(REPOSITORY / name, pages / name)
    nav = navigation(pages)
    problems += pages_without_place(pages, nav)
    config = out / "zensical.toml"
    config.write_text(tomli_w.dumps(configuration(nav)), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--config-file", config], check=True)
    for page in (out / "site").rglob("*.html"):
        page.write_text(without_empty_headers(page.read_text(encoding="utf-8")), encoding="utf-8")
    return problems + dead_links(out / "site")


def without_empty_headers(text: str) -> str:
    """Return a page whose empty cells in the heads of tables are no headers: those are read out for each cell below."""
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", text)


def main() -> int:
    out = REPOSITORY / "build" / "docs"
    problems = build(out)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    print(f"{out / 'site' / 'index.html'}; with the search: python -m http.server --directory {out / 'site'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
