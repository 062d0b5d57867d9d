"""The wheel: its recipes and examples, its bytes.  `make release` tries it in bare environments.

The release: the links of its index page, the licences in NOTICE, what a tag needs.

Imports: they are light; those inside of worldclip are checked by `lint-imports` (pyproject.toml).
The Dockerfile: what it copies is there and in the build context.  pyproject.toml: which warnings fail a test.
"""

import re
import runpy
import shutil
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

import licences
import release
import worldclip
from programs import python
from worldclip.config import load_recipe, own_recipe
from worldclip.core.errors import UserError
from worldclip.plugins.browser import web_folder

ROOT = Path(__file__).parents[1]
SRC = Path(worldclip.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_version_stands_in_one_place():
    assert worldclip.__version__ == PROJECT["version"]
    places = [ROOT / name for name in ("CITATION.cff", "setup.py", "MANIFEST.in")]
    assert not [path.name for path in places if PROJECT["version"] in path.read_text(encoding="utf-8").split()]


def test_name_of_a_recipe_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own_recipe("emoji") == ROOT / "recipes" / "emoji.toml"
    assert load_recipe("emoji").pool.build == "emoji"
    assert load_recipe("german_400m").metadata.dumps == str(tmp_path / "dumps")
    assert own_recipe("emoji.toml") is None
    assert own_recipe("../recipes/emoji") is None
    with pytest.raises(UserError, match="emojis does not exist"):
        load_recipe("emojis")
    (tmp_path / "emoji").mkdir()
    with pytest.raises(UserError, match=r"emoji holds no recipe\.toml"):
        load_recipe("emoji")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Copy what wheel and sdist are built from."""
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules", "js")
    for name in ("src", "recipes", "examples", "web"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "Makefile", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


def build_wheel(source: Path, out: Path) -> Path:
    options = ["--no-deps", "--no-build-isolation", "-q", "-w"]
    python("-m", "pip", "wheel", *options, out, source, SOURCE_DATE_EPOCH="1700000000")
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_sdist_gives_the_same_wheel_to_the_byte(source, wheel, tmp_path):
    build_sdist = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    python("-c", build_sdist, tmp_path, cwd=source)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="fully_trusted")  # as it is: modes are bytes of the wheel
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert build_wheel(unpacked, tmp_path / "again").read_bytes() == wheel.read_bytes()


@pytest.mark.slow
def test_wheel_holds_recipes_examples_and_the_files_of_a_page(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    for folder in ("recipes", "examples"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {f"worldclip/{path.relative_to(ROOT).as_posix()}" for path in files} <= names
    assert {f"worldclip/plugins/browser/js/{name}" for name in web_folder.LIBRARIES} <= names
    assert not [name for name in names if "__pycache__" in name]
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    assert "worldclip" in metadata.get_payload()


# --- the release ------------------------------------------------------------------------------------------------------


def test_index_page_has_absolute_links_to_files_of_the_repository():
    pytest.importorskip("setuptools")
    index_page = runpy.run_path(str(ROOT / "setup.py"))["index_page"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = index_page(readme, PROJECT["urls"]["Repository"], PROJECT["version"])
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", page)
    assert [mark for mark, _ in links].count("!") == readme.count("![") > 0
    tags = [f'<img src="{address}">' if mark else f'<a href="{address}">' for mark, address in links]
    tags += [f'<h2 id="{address[1:]}">' for _, address in links if address.startswith("#")]  # of test_docs_site.py
    assert list(release.dead_links("".join(tags), ROOT)) == []


def test_notice_has_the_licence_of_each_dependency_of_the_wheel_and_the_demo():
    assert f"demo_EXTRAS = {licences.DEMO_EXTRAS}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = [PROJECT["optional-dependencies"][name] for name in licences.DEMO_EXTRAS.split(",")]
    required = {re.split(r"[<>=]", line)[0] for lines in (PROJECT["dependencies"], *extras) for line in lines}
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^  (\S+) +(\S.*)$", notice.partition(licences.TABLES)[2], re.MULTILINE))
    assert required | set(licences.browser_packages()) <= set(rows)
    assert "not stated" not in notice
    assert licences.render_notice(notice, [{"name": "a_b", "license": "MIT"}]).endswith("\n\n  a-b  MIT\n")


@pytest.mark.parametrize(
    ("tags", "problems", "message"),
    [
        ("v0.0.1", [], "the version of pyproject.toml is"),
        (f"v{PROJECT['version']}", ["a placeholder"], "a placeholder"),
        (f"v{PROJECT['version']}\nbefore", [], None),
        ("", ["a placeholder"], None),
    ],
)
def test_a_tag_is_of_the_version_and_has_no_open_problem(tags, problems, message, monkeypatch):
    monkeypatch.setattr(release, "run", lambda *_, **__: tags)
    if message is None:
        release.check_tag(problems)
    else:
        with pytest.raises(SystemExit, match=message):
            release.check_tag(problems)


def test_extra_all_has_the_extras_of_users_and_an_upper_bound_its_reason():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert re.findall(r"\w+", everything) == [
        "worldclip",
        *(name for name in extras if name not in ("all", "docs", "dev")),
    ]
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    bounded = [line for line in lines if re.search(r'^ +"[\w-]+.*<', line)]
    assert bounded
    assert [line for line in bounded if "# " not in line] == []


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


def copied() -> set[str]:
    """Return the paths that are copied from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return {name for line in lines for name in line.split()[:-1]}


def test_every_copied_path_exists_and_is_not_ignored():
    assert {"pyproject.toml", "src"} <= copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied()


def test_images_are_of_one_release_of_python_and_that_of_the_server_is_no_root():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"${PYTHON}", "core"}
    assert re.search(r"^ARG PYTHON=python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    (server,) = re.findall(r"^FROM \S+ AS serve\n(.*?)^FROM", DOCKERFILE, re.MULTILINE | re.DOTALL)
    users = re.findall(r"^USER (.+)$", server, re.MULTILINE)
    assert [int(user) > 0 for user in users] == [True]


def test_the_wheel_is_built_from_all_that_setuptools_reads():
    assert {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", *PROJECT["license-files"]} <= copied()
    copied_by_setup = re.search(r"for name in \((.+)\)", (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    assert set(re.findall(r'"(\w+)"', copied_by_setup)) <= copied()


# --- warnings in tests ------------------------------------------------------------------------------------------------


def test_warning_of_a_line_of_ours_fails_its_test():
    line = "import warnings; warnings.warn('this function is going away', FutureWarning)"
    with pytest.raises(FutureWarning):
        exec(line, {"__name__": "worldclip.train.loss"})
    with pytest.warns(FutureWarning):
        exec(line, {"__name__": "transformers.modeling"})


# --- the source -------------------------------------------------------------------------------------------------------


def test_onnxruntime_sends_nothing_of_what_worldclip_runs(tmp_path, monkeypatch):
    """It writes a device id once it may send."""
    monkeypatch.delenv("CI", raising=False)  # it sends nothing there
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    python("-c", "import worldclip, onnxruntime")
    assert list(tmp_path.rglob("*")) == []


def test_nothing_is_written_through_a_memory_map():
    """A write to a map of a file ends the process where the disk is full."""
    writable = re.compile(r"open_memmap(?!\([^)]*mode=\"r\"\))|mode=\"(r\+|w\+)\"|ACCESS_WRITE|ACCESS_COPY")
    assert [path for path in SRC.rglob("*.py") if writable.search(path.read_text(encoding="utf-8"))] == []


HEAVY = ("torch", "ray", "transformers", "torchvision", "tokenizers")

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is blocked in this test")
sys.meta_path.insert(0, Block())
"""


def test_import_pulls_nothing_heavy_and_public_names_resolve_on_first_access():
    """Not even the core's libraries are loaded."""
    code = """
import worldclip, sys
print(*sys.modules)
try: worldclip.nothing
except AttributeError as error: print(error)
assert "load" in dir(worldclip) and "sys" not in dir(worldclip)
print(worldclip.match.Matcher(["cat"]).match("a cat").tolist(), worldclip.languages.from_lid("yue", scheme="lid176"))
print(worldclip.balance.tail_fraction([1, 3, 6, 90], 10))
"""
    loaded, error, *results = python("-c", BLOCK + code).splitlines()
    assert not {*HEAVY, "numpy", "numba", "pyarrow", "matplotlib", "argparse"} & set(loaded.split())
    assert "no attribute 'nothing'" in error
    assert " ".join(results).split() == ["[0]", "zh", "0.1"]
