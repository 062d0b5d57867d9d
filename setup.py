"""Bring recipes, examples and browser files into wheel and sdist, and absolute links into the index page.

All else is in pyproject.toml.
"""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from setuptools import Command, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

JS = Path("src/worldclip/plugins/browser/js")
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(?=\))")


def index_page(readme: str, repository: str, version: str) -> str:
    """Return README.md with absolute links, for a package index, which shows it without its neighbours.

    They have GitHub's form and name the tag of the version: REPOSITORY/blob/vVERSION/PATH, pictures REPOSITORY/raw/...
    """

    def absolute(match: re.Match[str]) -> str:
        opening, link = match.groups()
        if urlsplit(link).scheme or link.startswith("#"):
            return match[0]
        kind = "raw" if opening.startswith("!") else "blob"
        return f"{opening}{repository.removesuffix('.git')}/{kind}/v{version}/{link}"

    return LINK.sub(absolute, readme)


def make_browser_files(command: Command) -> None:
    """Run `make web` where its files are missing; a failure is a warning."""
    if not JS.is_dir():
        make = shutil.which("make")
        if make is None or subprocess.run([make, "web"], check=False).returncode:
            command.warn("this package cannot write pages for browsers (export --formats web): `make web` failed")


class BuildWithRecipes(build_py):
    """Build the package with `worldclip/recipes` and `worldclip/examples`; an editable one reads the checkout's."""

    def run(self) -> None:
        if not self.editable_mode:
            make_browser_files(self)
        super().run()
        if not self.editable_mode:
            for name in ("recipes", "examples"):
                target = Path(self.build_lib) / "worldclip" / name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


class SdistWithBrowserFiles(sdist):
    """Pack the sources with the browser files, so that building them needs no npm."""

    def run(self) -> None:
        make_browser_files(self)
        super().run()


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = Path("README.md").read_text(encoding="utf-8")
    setup(
        cmdclass={"build_py": BuildWithRecipes, "sdist": SdistWithBrowserFiles},
        long_description=index_page(readme, project["urls"]["Repository"], project["version"]),
        long_description_content_type="text/markdown",
    )
