"""Licences of the packages that the wheel carries and brings: the tables of NOTICE, and the bill of materials."""

import base64
import hashlib
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shell import run

ROOT = Path(__file__).resolve().parents[1]
DEMO_EXTRAS = "demo,train,serve"  # demo_EXTRAS of the Makefile
TABLES = "--- Written by `make release` ---\n"
IN_THE_WHEEL = ("@huggingface/transformers", "@huggingface/jinja", "@huggingface/tokenizers", "onnxruntime-web")
"""npm packages of which `make web` copies a part: transformers.web.min.js contains jinja and tokenizers."""
BY_THEIR_FILES = {"cuda-toolkit": "no files; requires the NVIDIA packages", "locate": "MIT", "resvg-py": "MIT"}
"""Python packages whose metadata states no licence, or a wrong one -> the licence by their files."""
VALIDATE = """import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1], encoding="utf-8").read())
sys.exit(str(error) if error else 0)
"""

Package = Mapping[str, Any]


def resolve(tools: Path, python: Path, requirement: str) -> list[Package]:
    """Return the metadata of all packages that pip would install for an interpreter; it installs nothing."""
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = run(tools, "-m", "pip", "--python", python, "install", *options, requirement)
    return [item["metadata"] for item in json.loads(report)["install"]]


# --- NOTICE -----------------------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(package: Package) -> str:
    """Return a package's licence, an SPDX expression where its metadata has one."""
    if canonical(package["name"]) in BY_THEIR_FILES:
        return BY_THEIR_FILES[canonical(package["name"])]
    if "license_expression" in package:
        return str(package["license_expression"])
    lines = package.get("license", "").splitlines()
    if len(lines) == 1 and len(lines[0]) < 80:  # others are the licence's text
        return str(lines[0])
    classifiers = [line for line in package.get("classifier", ()) if line.startswith("License ::")]
    return ", ".join(line.rpartition(" :: ")[2] for line in classifiers) or "not stated in its metadata"


def browser_packages() -> dict[str, Package]:
    """Return name -> version, licence and checksum of the npm packages of which the wheel has parts."""
    locked = json.loads((ROOT / "web" / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    return {name: locked[f"node_modules/{name}"] for name in IN_THE_WHEEL}


def render_notice(notice: str, packages: Sequence[Package]) -> str:
    """Return NOTICE with tables of the browser files' packages and of `packages` after its hand-written part."""
    carried = {name: package["license"] for name, package in browser_packages().items()}
    brought = {canonical(package["name"]): licence_of(package) for package in packages}
    brought.pop("worldclip", None)
    return "".join(
        [
            notice.partition(TABLES)[0],
            TABLES,
            "\nThe browser files, worldclip/plugins/browser/js of a wheel, are parts of these npm packages:\n\n",
            table(carried),
            "\nThese Python packages are not part of worldclip. pip installs them with the wheel, or for the demo\n"
            f"(extras {DEMO_EXTRAS}; Linux, x86-64). Each holds its licence, and those of its own parts.\n\n",
            table(dict(sorted(brought.items()))),
        ]
    )


def table(licences: Mapping[str, str]) -> str:
    width = max(map(len, licences)) + 2
    indent = " " * (width + 2)
    rows = [
        textwrap.fill(f"  {name:{width}}{licence}", 120, subsequent_indent=indent, break_on_hyphens=False)
        for name, licence in licences.items()
    ]
    return "\n".join(rows) + "\n"


# --- the bill of materials --------------------------------------------------------------------------------------------


def write_bill(tools: Path, python: Path, wheel: Path, out: Path) -> int:
    """Write the bill of materials (CycloneDX) of an environment with the wheel; return its number of packages.

    The browser files' packages, which no environment shows, and the wheel's checksum are added.
    """
    options = ["--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--sv", "1.6", "--output-reproducible"]
    run(tools.with_name("cyclonedx-py"), "environment", *options, "-o", out, python)
    bill = json.loads(out.read_text(encoding="utf-8"))
    worldclip = bill["metadata"]["component"]
    worldclip["purl"] = f"pkg:pypi/worldclip@{worldclip['version']}"
    worldclip["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
    carried = [component(name, package) for name, package in browser_packages().items()]
    references = [package["bom-ref"] for package in carried]
    bill["components"] += carried
    for item in bill["dependencies"]:
        if item["ref"] == worldclip["bom-ref"]:
            item["dependsOn"] = [*item.get("dependsOn", ()), *references]
    bill["dependencies"] += [{"ref": reference} for reference in references]
    out.write_text(json.dumps(bill, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    run(tools, "-c", VALIDATE, out)
    return len(bill["components"])


def component(name: str, package: Package) -> dict[str, Any]:
    """Return an npm package as CycloneDX describes it."""
    purl = f"pkg:npm/{quote(name)}@{package['version']}"
    digest = base64.b64decode(package["integrity"].removeprefix("sha512-")).hex()
    return {
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": name,
        "version": package["version"],
        "licenses": [{"license": {"id": package["license"]}}],
        "hashes": [{"alg": "SHA-512", "content": digest}],
    }
