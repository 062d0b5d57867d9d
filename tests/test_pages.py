"""Every page in Chromium, two widths, light and dark: no message of the console, axe finds nothing, nothing is cut.

The commands of docs/start_*.md, in order, as they stand, on a small pool in img2dataset's format.
"""

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from chromium import Page, open_page, problems_shown
from embedded_world import picture
from made_up_run import write_made_up_run
from miniature import write_files
from pages import blocks
from served import static_host
from serving import serving
from tars import as_json, write_tar
from toy import ToyWorld, draw_shape, encode_png
from worldclip import check
from worldclip.check import CheckConfig
from worldclip.cli import main
from worldclip.export import ExportConfig, export_model
from worldclip.plugins.browser import web_folder
from worldclip.plugins.explorer.explore import explore
from worldclip.pool.config import PoolConfig
from worldclip.report import write_evaluation, write_report

pytestmark = pytest.mark.slow

LOADED = "document.readyState === 'complete'"
Place = tuple[str, str]  # address, and what is true once the page is shown


class Site:
    """The places of the pages, each made on the first call."""

    def __init__(self, root: Path, toy_world: ToyWorld, toy_run: Path, embedded_world: Path, hosts: ExitStack) -> None:
        self.root, self.world, self.run, self.embedded = root, toy_world, toy_run, embedded_world
        self.hosts = hosts

    def report(self) -> Place:
        run = write_made_up_run(self.root / "run", picture(0))
        return write_report(run).as_uri(), LOADED

    def evaluation(self) -> Place:
        run = write_made_up_run(self.root / "evaluated", picture(0))
        return write_evaluation(run / "evaluate").as_uri(), LOADED

    def explorer(self) -> Place:
        explore(self.run, self.root / "explorer")
        address = self.hosts.enter_context(static_host(self.root / "explorer"))
        return f"{address}/index.html", "document.querySelector('.slider')"

    def check(self) -> Place:
        out = self.root / "checked"
        check.check(PoolConfig(path=str(self.world.pool)), out, CheckConfig())
        return (out / "report.html").as_uri(), LOADED

    def search(self) -> Place:
        address = self.hosts.enter_context(serving(self.embedded))
        return f"{address}/?q=apple", "document.querySelectorAll('.hit img').length > 10"

    def browser(self) -> Place:
        if list(web_folder.problems()):
            pytest.skip("transformers.js is not there; run: make web")
        embedded = str(self.embedded / "embedded")
        config = ExportConfig(formats=("web",), onnx_precisions=("int8",), embedded=embedded)
        export_model(self.embedded / "model", self.root / "web", config)
        address = self.hosts.enter_context(static_host(self.root / "web/web"))
        return f"{address}/index.html", "document.body?.dataset.ready"


PAGES = ("report", "evaluation", "explorer", "check", "search", "browser")


@pytest.fixture(scope="module")
def site(toy_world, toy_run, embedded_world, tmp_path_factory) -> Iterator[Site]:
    with ExitStack() as hosts:
        yield Site(tmp_path_factory.mktemp("pages"), toy_world, toy_run, embedded_world, hosts)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as opened:
        yield opened


@pytest.mark.parametrize("name", PAGES)
def test_page_can_be_shown(name, site, page):
    address, until = getattr(site, name)()
    assert problems_shown(page, address, until) == []


# --- the start pages --------------------------------------------------------------------------------------------------

WORDS = {
    "en": ("a photo of a {} {} on white paper", ["red", "green", "blue", "yellow"], ["circle", "square", "triangle"]),
    "de": (
        "ein Bild mit einem {} {} auf Papier",
        ["roten", "grünen", "blauen", "gelben"],
        ["Kreis", "Quadrat", "Dreieck"],
    ),
}
PUBLISHED = "facebook/metaclip-2-worldwide-s16"
RGB = np.array([(220, 30, 30), (30, 160, 60), (40, 60, 220), (235, 205, 30)], np.uint8)


def draw_on_noise(n: int) -> bytes:
    """Return a small shape on noise, so that no two pictures are near duplicates."""
    pixels = np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8)
    pixels[8:24, 8:24] = RGB[n % 4]
    pixels[8 : 8 + 4 * (n // 4 % 3), 8:24] = 255
    return encode_png(pixels)


def write_pool(folder: Path, first: int, num_samples: int) -> None:
    members: list[tuple[str, bytes]] = []
    for n in range(first, first + num_samples):
        template, colours, shapes = WORDS["en" if n % 2 else "de"]
        caption = template.format(colours[n % 4], shapes[n // 4 % 3])
        record = {"url": f"https://example.org/{n}.png", "caption": caption, "status": "success"}
        record["NSFW"] = "LIKELY" if n % 50 == 7 else "UNLIKELY"
        contents = {"png": draw_on_noise(n), "txt": caption.encode(), "json": as_json(record)}
        members += [(f"{n:09}.{suffix}", content) for suffix, content in contents.items()]
    write_tar(folder / f"{first:05}.tar", members)


def run_page(name: str) -> None:
    """Run the commands, then the Python of a page; the run of the other pages takes the place of a published model."""
    for block in blocks(f"docs/{name}"):
        for line in block.replace(PUBLISHED, "runs/my_images").splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "worldclip"
            assert main(arguments) == 0, line
    for block in blocks(f"docs/{name}", "python"):
        exec(compile(block.replace(PUBLISHED, "runs/my_images"), name, "exec"), {})


@pytest.mark.slow
def test_the_three_start_pages_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pool(tmp_path / "my_images", 0, 240)
    write_pool(tmp_path / "held_out", 240, 24)
    write_files(tmp_path, dict.fromkeys(["photo.jpg", "photos/a.jpg"], draw_shape(0, RGB[0], 0)))
    (tmp_path / "takedown.txt").write_text("000000005\n")
    run_page("start_curate.md")
    shown = capsys.readouterr().out
    assert "240 of 240 pairs are valid" in shown
    assert "000000003 in 00000.tar: " in shown
    assert (tmp_path / "explorer/index.html").exists()
    assert json.loads((tmp_path / "runs/my_images/curate/report.json").read_text())["total"]["not_valid"] == 1
    run_page("start_train.md")
    compared = capsys.readouterr().out
    assert "held_out" in compared
    assert "(2 seeds)" in compared
    run_page("start_use.md")
    assert (tmp_path / "runs/my_images/export/huggingface/model.safetensors").exists()
