"""Bring recipes, examples and transformers.js into the package of a wheel.  All else is in pyproject.toml."""

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

JS = Path("src/worldclip/plugins/browser/js")


class BuildWithRecipes(build_py):
    """Build the package with `worldclip/recipes` and `worldclip/examples`; an editable one reads the checkout's."""

    def run(self) -> None:
        if not self.editable_mode and not JS.is_dir():
            make = shutil.which("make")
            if make is None or subprocess.run([make, "web"], check=False).returncode:
                self.warn("this wheel cannot write pages for browsers (export --formats web): `make web` failed")
        super().run()
        if not self.editable_mode:
            for name in ("recipes", "examples"):
                target = Path(self.build_lib) / "worldclip" / name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


setup(cmdclass={"build_py": BuildWithRecipes})
