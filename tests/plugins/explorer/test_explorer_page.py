"""The explorer in Chromium, opened from disk: every view, keyboard, markup that stays text, accessibility, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from test_explore import read_chunk

from chromium import Page, open_page
from worldclip.tools.inspect_run import inspect_key

VIEWS = {
    "overview": "document.querySelector('.slider') && document.querySelector('.curve-place svg')",
    "language/en": "document.querySelector('.shot')",
    "language/ar": "document.querySelector('.shot')",
    "entry/en/red": "document.querySelector('.shot')",
    "why": "document.querySelector('#text')",
    "why/broken": "document.querySelector('.note, .shot')",  # bytes that are no UTF-8
    "labels": "document.querySelector('main h2')",
    "checked": "document.querySelector('main h2')",
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as opened:
        yield opened


def show(page: Page, explored, view: str, until: str = "document.querySelector('main h2')") -> None:
    page.errors.clear()
    page.requests.clear()
    page.open("about:blank")
    page.open(f"{(explored.folder / 'index.html').as_uri()}#/{view}", until)


def text_of(page: Page, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_opens_from_disk_without_errors_and_without_the_network(page, explored, view):
    for width, dark in ((1400, False), (400, True)):
        page.resize(width, 900, dark=dark)
        show(page, explored, view, VIEWS[view])
        assert page.errors == []
        assert not page.is_cut()
        outside = [url for url in page.requests if not url.startswith((explored.folder.as_uri(), "about:"))]
        assert outside == []


def test_planted_markup_stays_text(page, explored):
    show(page, explored, "language/en", VIEWS["language/en"])
    for _ in range(8):
        page.run("document.querySelectorAll('section > div > button').forEach((button) => button.click())")
    shown = page.run("document.querySelector('main').textContent")
    assert "<script>window.planted = 1</script>" in shown
    assert '<img src=x onerror="window.planted = 2">' in shown
    assert "javascript:alert(1)" in shown
    for view in (f"why/{quote('<i>2', safe='')}", f"entry/en/{quote('<b>bold</b>', safe='')}", "entry/en/__proto__"):
        show(page, explored, view, "document.querySelector('.shot, .note')")
        assert page.run("document.querySelectorAll('.shot').length") >= 1, view
    assert page.run("typeof planted") == "undefined"
    assert page.run("document.querySelectorAll('main script, main i:not([style]), main b:not(.card b)').length") == 0
    assert page.run("[...document.links].every((link) => link.protocol === 'file:')")


def test_the_slider_shows_what_estimate_says_and_marks_what_is_interpolated(page, explored):
    slider = read_chunk(explored.folder, "slider")
    show(page, explored, "overview", VIEWS["overview"])
    for i in (0, 20, slider["own"], 40):
        page.run(f"place.value = {i}, place.dispatchEvent(new Event('input'))")
        assert text_of(page, "#whatif .card b") == f"{slider['total'][i]:,.0f}"
        assert "computed, as worldclip estimate gives it" in text_of(page, "output")
    page.run("place.value = 20.5, place.dispatchEvent(new Event('input'))")
    assert "interpolated" in text_of(page, "output")


def test_the_slider_and_the_views_work_by_keyboard_alone(page, explored):
    show(page, explored, "overview", VIEWS["overview"])
    page.press("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    for _ in range(2):
        page.press("Tab", 9)
    assert page.run("document.activeElement.dataset.view") == "why"
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('#key')")
    assert page.run("document.activeElement.id") == "main"
    page.press("Tab", 9)
    page.press("Tab", 9)
    assert page.run("document.activeElement.id") == "key"
    page.type("00007")
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('.verdict')")
    show(page, explored, "overview", VIEWS["overview"])
    before = text_of(page, "output")
    page.run("place.focus()")
    page.press("ArrowRight", 39)
    assert text_of(page, "output") != before


def test_a_key_is_explained_as_inspect_explains_it(page, explored):
    wanted = inspect_key(explored.run, "00007")
    show(page, explored, "why/00007", "document.querySelector('.verdict')")
    cards = page.run("[...document.querySelectorAll('.shot')].map((card) => card.textContent)")
    for text, card in zip(wanted["texts"], cards, strict=True):
        assert text["text"] in card
        assert f"probability{text['keep_prob']:.4f}" in card
        assert f"coin{text['coin']:.4f}" in card
        for entry in text["entries"]:
            assert f"{entry['entry']} {entry['matches']} matches: {entry['prob']:.4f}" in card


def test_a_typed_text_is_matched_in_the_page(page, explored):
    show(page, explored, "why", VIEWS["why"])
    page.run("lang.value = 'zh', document.getElementById('text').value = '红色的星星和猫'")
    page.run("document.getElementById('text').form.requestSubmit()")
    page.wait("document.querySelector('.shot')")
    marked = page.run("[...document.querySelectorAll('.shot mark')].map((mark) => mark.textContent)")
    assert marked == ["红色", "星星"]


def test_right_to_left_texts_stand_right(page, explored):
    show(page, explored, "language/ar", VIEWS["language/ar"])
    style = "getComputedStyle(document.querySelector('.shot .text'))"
    assert page.run(f"{style}.direction") == "rtl"
    assert page.run("document.querySelector('.shot .text').lang") == "ar"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_violation(page, explored, dark):
    for view in [*VIEWS, "why/00007"]:
        page.resize(1400, 900, dark=dark)
        show(page, explored, view, VIEWS.get(view, "document.querySelector('.verdict')"))
        assert page.axe_problems() == [], view
