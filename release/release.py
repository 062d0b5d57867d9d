"""Build HEAD, check what was built, and try it in bare environments: `make release`.

    dist/            the wheel and the sdist
    build/release/   README.html, as a package index shows it; worldclip-VERSION.cdx.json, the bill of materials

The first check that fails ends the script.  What a public release still needs is listed at the end; it is
an error where HEAD has the version's tag.  Needs git and make.  The tools of tools.txt get an environment of their own.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import licences
from shell import run

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]
REPOSITORY = PROJECT["urls"]["Repository"].removesuffix(".git")
OUT = ROOT / "build" / "release"
TRIED_EXTRAS = "metadata,pool,demo"  # all of curation, without torch, which takes 5 GB per environment
BROWSER_FILES = "worldclip/plugins/browser/js/"
MAX_MEGABYTES = 6
MAX_HELP_SECONDS, MAX_IMPORT_SECONDS, TIMED_CALLS = 0.5, 0.1, 9
START = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - START:4.0f} s] {text}", flush=True)


def megabytes(path: Path) -> str:
    return f"{path.name} ({path.stat().st_size / 1e6:.2f} MB)"


def find_pythons() -> dict[str, str]:
    """Return the command of each Python that pyproject.toml names and this machine has, the oldest first."""
    pythons = {}
    for minor in re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE):
        command = f"python{minor}"  # one of pyenv may stand for a Python that is not installed
        probe = ["sh", "-c", f"{command} -c 'import ensurepip'"]
        if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
            pythons[minor] = command
        else:
            say(f"Python {minor} is not on this machine: the wheel is not tried with it")
    if not pythons:
        raise SystemExit("error: this machine has no Python that pyproject.toml names; install one")
    return pythons


# --- wheel and sdist --------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path) -> Path:
    """Extract a tar, with modes that do not depend on the umask."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def export_head(folder: Path) -> Path:
    """Write the files of HEAD."""
    archive = folder.with_suffix(".tar")
    run("git", "archive", "--output", archive, "HEAD", cwd=ROOT)
    return unpack(archive, folder)


def build(tools: Path, kind: str, source: Path, out: Path) -> Path:
    """Build a wheel or an sdist and return its path."""
    run(tools, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source)
    (built,) = out.iterdir()
    return built


def build_all(tools: Path, work: Path) -> tuple[Path, Path]:
    """Return (wheel, sdist) of HEAD.  The wheel is also built from the sdist and from another export, and compared."""
    source = export_head(work / "source")
    sdist = build(tools, "sdist", source, work / "sdist")
    wheel = build(tools, "wheel", source, work / "wheel")
    say(f"built {megabytes(wheel)}, {megabytes(sdist)}")
    (unpacked,) = unpack(sdist, work / "unpacked").iterdir()
    for name, other_source in {"the sdist": unpacked, "another export": export_head(work / "export")}.items():
        other = build(tools, "wheel", other_source, work / f"wheel of {name}")
        if other.read_bytes() != wheel.read_bytes():
            raise SystemExit(f"error: the wheel of {name} has other bytes: {', '.join(differences(wheel, other))}")
        say(f"the wheel of {name} has the same bytes")
    return wheel, sdist


def differences(wheel: Path, other: Path) -> list[str]:
    """Return the members that differ in content, date or mode."""
    members = []
    for path in (wheel, other):
        with zipfile.ZipFile(path) as archive:
            members.append(
                {(item.filename, item.date_time, item.external_attr, item.CRC) for item in archive.infolist()}
            )
    return sorted({name for name, *_ in members[0] ^ members[1]}) or ["the order or the compression of its members"]


def check_contents(tools: Path, wheel: Path, sdist: Path) -> None:
    """Check metadata, sizes, the browser files, and that the wheel holds the package and nothing else."""
    run(tools, "-m", "twine", "check", "--strict", wheel, sdist)
    for built in (wheel, sdist):
        if built.stat().st_size > MAX_MEGABYTES * 1e6:
            raise SystemExit(f"error: {megabytes(built)} is larger than {MAX_MEGABYTES} MB")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    with tarfile.open(sdist) as tar:
        packed = {name.partition("/src/")[2] for name in tar.getnames()}
    if f"{BROWSER_FILES}LICENSE.onnxruntime" not in packed & set(names):  # the file that `make web` writes last
        raise SystemExit("error: the browser files are missing; `make web` says why")
    folders = {name.partition("/")[0] for name in names}
    if folders != {"worldclip", f"worldclip-{VERSION}.dist-info"}:
        raise SystemExit(f"error: the wheel installs {', '.join(sorted(folders))}: only the package is to be there")


# --- the page of a package index --------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The targets of links and pictures of a page, (tag, address), and the anchors that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [(tag, value) for name, value in attrs if name in ("href", "src") and value]
        self.anchors |= {f"#{value}" for name, value in attrs if name == "id"}


def dead_links(page: str, source: Path) -> Iterator[str]:
    """Yield a problem per link that is relative, or names no file of the repository, as each picture must."""
    links = Links(page)
    for tag, address in links.targets:
        place = f"{REPOSITORY}/{'raw' if tag == 'img' else 'blob'}/v{VERSION}/"
        if address.startswith("#"):
            if address not in links.anchors:
                yield f"{address} is no heading of the page"
        elif not urlsplit(address).scheme:
            yield f"{address} is relative"
        elif not address.startswith(place):
            if tag == "img" or address.startswith(f"{REPOSITORY}/"):
                yield f"{address} is not below {place}"
        elif not (source / unquote(urlsplit(address.removeprefix(place)).path)).exists():
            yield f"{address} is not in the repository"


def check_index_page(tools: Path, wheel: Path, source: Path) -> None:
    """Render README.md as a package index does, and check its links and pictures."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"worldclip-{VERSION}.dist-info/METADATA").decode())
    readme = source.with_name("README.md")
    readme.write_text(metadata.get_payload(), encoding="utf-8")
    run(tools, "-m", "readme_renderer", readme, "-o", OUT / "README.html")
    page = (OUT / "README.html").read_text(encoding="utf-8")
    problems = [f"error: README.md on an index page: {problem}" for problem in dead_links(page, source)]
    if problems:
        raise SystemExit("\n".join(problems))
    pictures = sum(tag == "img" for tag, _ in Links(page).targets)
    say(f"README.md on an index page: {len(Links(page).targets)} targets, {pictures} of them pictures: all exist")


# --- bare environments ------------------------------------------------------------------------------------------------


def check_seconds(bound: float, *command: str | Path, cwd: Path) -> str:
    """Return the least CPU time of a command, which other work hardly delays; end the script if that is too much."""
    seconds = []
    for _ in range(TIMED_CALLS):
        before = os.times()
        run(*command, cwd=cwd)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # user and system time of child processes
    text = f"{Path(command[0]).name} {' '.join(map(str, command[1:]))}: {min(seconds):.2f} s"
    if min(seconds) > bound:
        raise SystemExit(f"error: {text} of CPU time (least of {TIMED_CALLS}), at most {bound} s are allowed")
    return text


def try_wheel(python: str, wheel: Path, folder: Path) -> Path:
    """Install the wheel as a user does, time its start, curate the demo's pool; return the environment's Python."""
    run(python, "-m", "venv", folder / "environment")
    commands, empty = folder / "environment" / "bin", folder / "empty"
    run(commands / "pip", "install", "--quiet", f"{wheel}[{TRIED_EXTRAS}]")
    empty.mkdir()
    helping = check_seconds(MAX_HELP_SECONDS, commands / "worldclip", "--help", cwd=empty)
    importing = check_seconds(MAX_IMPORT_SECONDS, commands / "python", "-c", "import worldclip", cwd=empty)
    say(f"  {helping}; {importing} (CPU time, least of {TIMED_CALLS})")
    run(commands / "worldclip", "run", "emoji", "--until", "curate", cwd=empty)
    say("  worldclip run emoji --until curate: finished")
    return commands / "python"


def resolve_extras(tools: Path, python: Path, wheel: Path, extras: list[str]) -> None:
    """Check that pip finds packages for each of the extras."""
    for extra in extras:
        licences.resolve(tools, python, f"{wheel}[{extra}]")
    say(f"  extras that resolve, each alone: {', '.join(extras)}")


# --- a public release -------------------------------------------------------------------------------------------------


def check_tag(problems: list[str]) -> None:
    """End the script if HEAD has a version's tag in spite of problems, or the tag of another version."""
    tags = [tag for tag in run("git", "tag", "--points-at", "HEAD", cwd=ROOT).split() if re.match(r"v\d", tag)]
    if tags and tags != [f"v{VERSION}"]:
        problems = [f"the version of pyproject.toml is {VERSION}", *problems]
    if tags and problems:
        raise SystemExit("\n".join(f"error: HEAD has the tag {tags[0]}: {problem}" for problem in problems))


def placeholder_problems() -> list[str]:
    if not (urlsplit(REPOSITORY).hostname or "").endswith(".example"):
        return []
    return [f"{REPOSITORY} is a placeholder, links of the index page are dead: make clone-url URL=https://..."]


def notice_problems(tools: Path, python: Path, wheel: Path) -> list[str]:
    """Write NOTICE anew; it differs where dependencies came, went or changed their licence."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        say("  NOTICE lists the packages of Linux on x86-64: not compared on this machine")
        return []
    packages = licences.resolve(tools, python, f"{wheel}[{licences.DEMO_EXTRAS}]")
    before = (ROOT / "NOTICE").read_text(encoding="utf-8")
    after = licences.render_notice(before, packages)
    (ROOT / "NOTICE").write_text(after, encoding="utf-8")
    return [] if after == before else ["NOTICE had other packages or licences and has been rewritten: commit it"]


def main() -> None:
    os.umask(0o022)  # modes are bytes of a wheel
    os.environ.pop("PYTHONPATH", None)
    os.environ["SOURCE_DATE_EPOCH"] = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    if run("git", "status", "--porcelain", cwd=ROOT):
        say("changes that are not committed are not part of the release")
    problems = placeholder_problems()
    check_tag(problems)
    pythons = find_pythons()
    newest = list(pythons)[-1]
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="worldclip-release-") as name:
        work = Path(name)
        run(pythons[newest], "-m", "venv", work / "tools")
        tools = work / "tools" / "bin" / "python"
        run(tools, "-m", "pip", "install", "--quiet", "--upgrade", "-r", ROOT / "release" / "tools.txt")
        wheel, sdist = build_all(tools, work)
        check_contents(tools, wheel, sdist)
        check_index_page(tools, wheel, work / "source")
        for minor, command in pythons.items():
            say(f"Python {minor}")
            python = try_wheel(command, wheel, work / minor)
            extras = list(PROJECT["optional-dependencies"]) if minor == newest else ["all"]
            resolve_extras(tools, python, wheel, extras)
            if minor == newest:
                problems += notice_problems(tools, python, wheel)
                run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip")  # no dependency of the wheel
                bill = OUT / f"worldclip-{VERSION}.cdx.json"
                say(f"  {bill.name}: {licences.write_bill(tools, python, wheel, bill)} packages")
            shutil.rmtree(work / minor)
        check_tag(problems)
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        (ROOT / "dist").mkdir()
        for built in (wheel, sdist):
            shutil.copy(built, ROOT / "dist")
    say(f"dist/{wheel.name} and dist/{sdist.name} are ready")
    for problem in problems:
        say(f"before the tag v{VERSION}: {problem}")


if __name__ == "__main__":
    main()
