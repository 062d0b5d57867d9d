"""Print pip's constraints to the oldest releases that pyproject.toml allows: python tests/helpers/oldest.py."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [needs for extra, needs in project["optional-dependencies"].items() if extra not in ("dev", "docs")]
oldest: dict[str, str] = {}
for requirement in sum(extras, project["dependencies"]):
    if bound := re.match(r"([\w-]+)>=([\d.]+)", requirement):
        name, release = bound.groups()
        oldest[name] = max(release, oldest.get(name, "0"), key=lambda text: [int(number) for number in text.split(".")])
print(*(f"{name}=={release}" for name, release in oldest.items()), sep="\n")
