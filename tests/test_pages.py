"""Every page in Chromium, two widths, light and dark: no message of the console, axe finds nothing, nothing is cut."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chromium import Page, open_page, problems_shown
from embedded_world import picture
from evaluated import Forgetful, evaluated
from made_up_run import write_made_up_run
from served import static_host
from serving import serving
from toy import ToyWorld
from worldclip import check
from worldclip.check import CheckConfig
from worldclip.cli import main
from worldclip.export import ExportConfig, export_model
from worldclip.plugins.browser import web_folder
from worldclip.plugins.explorer.explore import explore
from worldclip.pool.config import PoolConfig
from worldclip.report import write_report
from worlds import WordModel

pytestmark = pytest.mark.slow

LOADED = "document.readyState === 'complete'"


class Site:
    """The places of the pages, each made on the first call."""

    def __init__(self, root: Path, toy_world: ToyWorld, toy_run: Path, embedded_world: Path) -> None:
        self.root, self.world, self.run, self.embedded = root, toy_world, toy_run, embedded_world

    @contextlib.contextmanager
    def report(self) -> Iterator[tuple[str, str]]:
        run = write_made_up_run(self.root / "run", picture(0))
        yield write_report(run).as_uri(), LOADED

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[tuple[str, str]]:
        run = write_made_up_run(self.root / "evaluated", picture(0))
        write_report(run)
        yield (run / "evaluate/report.html").as_uri(), LOADED

    @contextlib.contextmanager
    def explorer(self) -> Iterator[tuple[str, str]]:
        explore(self.run, self.root / "explorer")
        with static_host(self.root / "explorer") as address:
            yield f"{address}/index.html", "document.querySelector('.slider')"

    @contextlib.contextmanager
    def check(self) -> Iterator[tuple[str, str]]:
        out = self.root / "checked"
        check.check(PoolConfig(path=str(self.world.pool)), out, CheckConfig())
        yield (out / "report.html").as_uri(), LOADED

    @contextlib.contextmanager
    def search(self) -> Iterator[tuple[str, str]]:
        with serving(self.embedded) as address:
            yield f"{address}/?q=apple", "document.querySelectorAll('.hit img').length > 10"

    @contextlib.contextmanager
    def found(self) -> Iterator[tuple[str, str]]:
        page = self.root / "found.html"
        assert main(["search", str(self.embedded / "embedded"), "a red apple", "--html", str(page)]) == 0
        yield page.as_uri(), LOADED

    @contextlib.contextmanager
    def browser(self) -> Iterator[tuple[str, str]]:
        if list(web_folder.library_problems()):
            pytest.skip("transformers.js is not there; run: make web")
        embedded = str(self.embedded / "embedded")
        config = ExportConfig(formats=("web",), onnx_precisions=("int8",), embedded=embedded)
        export_model(self.embedded / "model", self.root / "web", config)
        with static_host(self.root / "web/web") as address:
            yield f"{address}/index.html", "document.body?.dataset.ready"

    def results(self) -> list[str]:
        """Return two folders of results."""
        one = evaluated(WordModel(), self.root / "one")
        two = evaluated(Forgetful(), self.root / "two")
        return [str(one), str(two)]

    @contextlib.contextmanager
    def leaderboard(self) -> Iterator[tuple[str, str]]:
        page = self.root / "leaderboard.html"
        assert main(["leaderboard", *self.results(), "--out", str(page)]) == 0
        yield page.as_uri(), LOADED

    @contextlib.contextmanager
    def comparison(self) -> Iterator[tuple[str, str]]:
        page = self.root / "comparison.html"
        assert main(["compare", *self.results(), "--out", str(page)]) == 0
        yield page.as_uri(), LOADED


PAGES = ("report", "evaluation", "explorer", "check", "search", "found", "browser", "leaderboard", "comparison")


@pytest.fixture(scope="module")
def site(toy_world: ToyWorld, toy_run: Path, embedded_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("pages"), toy_world, toy_run, embedded_world)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as opened:
        yield opened


@pytest.mark.parametrize("name", PAGES)
def test_page_can_be_shown(name: str, site: Site, page: Page) -> None:
    make: Callable[[], contextlib.AbstractContextManager[tuple[str, str]]] = getattr(site, name)
    with make() as (address, until):
        assert problems_shown(page, address, until) == []
