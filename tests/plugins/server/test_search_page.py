"""The search page in headless Chromium: texts, dropped pictures, combined queries, and captions that are no markup."""

from __future__ import annotations

import pytest

from chromium import DROP, open_page
from embedded_world import key_of, picture
from serving import data_url, serving
from worldclip.plugins.server.service import Service

HITS = "[...document.querySelectorAll('.hit a')].map(a => a.getAttribute('aria-label'))"


def caption_all(monkeypatch: pytest.MonkeyPatch, text: str, language: str) -> None:
    caption = {"text": text, "lang": "en", "lang_name": language}
    monkeypatch.setattr(Service, "with_language", lambda self, texts: [caption] * len(texts))


def test_a_person_searches_by_text_by_picture_and_by_both(world):
    with serving(world) as address, open_page() as page:
        page.open(f"{address}/", "document.querySelector('#facts')?.textContent.includes('pictures')")
        page.run("document.querySelector('#text').focus()")
        page.type("赤いリンゴ")
        page.press("Enter", 13, "\r")
        page.wait("document.querySelectorAll('.hit').length > 20")
        assert page.run("document.querySelector('.hit .caption').textContent").startswith("a red apple")
        assert "q=" in page.run("location.search")

        page.run("document.querySelector('#text').value = ''")
        page.run(DROP % data_url(picture(3)))
        page.wait(f"({HITS})[0] === 'Pair {key_of(0, 3)}'")
        assert page.run("Number(document.querySelector('.hit b').textContent)") == pytest.approx(1, abs=0.002)

        page.run("document.querySelector('#text').focus()")
        page.type("a red apple")
        page.press("Enter", 13, "\r")
        page.wait("document.querySelector('#state').textContent.startsWith('2 queries combined')")

        page.run("document.querySelector('.hit a').click()")
        page.wait("document.querySelector('#pair').open && document.querySelector('#pair img').naturalWidth > 0")
        assert "a red apple" in page.run("document.querySelector('#pair li').textContent")
        assert page.errors == []
        assert all(url.startswith((address, "data:", "blob:")) for url in page.requests)


def test_the_page_begins_with_pictures_and_shows_the_key_where_there_is_no_caption(world, monkeypatch):
    with serving(world) as address, open_page() as page:
        loaded = "[...document.querySelectorAll('.hit img')].filter(img => img.naturalWidth > 0).length === 12"
        page.open(f"{address}/", loaded)
        assert "12 of " in page.run("document.querySelector('#state').textContent")
        page.run("document.querySelectorAll('.hit a')[1].click()")
        page.wait("document.querySelector('#pair').open && document.querySelector('#pair img').naturalWidth > 0")
        assert page.errors == []
        caption_all(monkeypatch, "", "")
        page.open(f"{address}/?q=apple", "document.querySelectorAll('.hit .key').length > 20")
        shown = page.run("[...document.querySelectorAll('.hit')].map(hit => hit.querySelector('.key').textContent)")
        assert [f"Pair {key}" for key in shown] == page.run(HITS)


def test_without_an_embedded_folder_the_page_says_how_to_make_one(world):
    with serving(world, has_folder=False) as address, open_page() as page:
        page.open(f"{address}/", "document.querySelector('#hits code')")
        assert "worldclip embed MODEL PHOTOS" in page.run("document.querySelector('#hits').textContent")
        assert not page.run("document.querySelector('#search').checkVisibility()")
        assert page.errors == []


def test_captions_and_queries_are_text_and_never_markup(world, monkeypatch):
    evil = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"
    caption_all(monkeypatch, evil, evil)
    with serving(world) as address, open_page() as page:
        page.open(f"{address}/?q=%3Cscript%3Ex%3C/script%3E", "document.querySelectorAll('.hit').length > 20")
        assert page.run("document.querySelector('.hit .caption').textContent") == evil
        page.run("document.querySelector('.hit a').click()")
        page.wait("document.querySelector('#pair').open")
        assert page.run("document.title") == "Search"
        assert page.run("document.querySelectorAll('main script, #pair script, .hit img[src=x]').length") == 0
