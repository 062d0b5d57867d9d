"""Every page in Chromium, two widths, light and dark: no message of the console, axe finds nothing, nothing is cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chromium import Page, open_page, problems_shown
from embedded_world import picture
from made_up_run import write_made_up_run
from served import static_host
from serving import serving
from toy import ToyWorld
from worldclip import check
from worldclip.check import CheckConfig
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
