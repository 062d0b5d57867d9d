"""report.html: one file that opens anywhere, shows every stage, and leaves out what has not run."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from made_up_run import LANGS, NAMES, write_made_up_run
from worldclip.core.artifacts import read_json, write_json
from worldclip.report import write_report
from worldclip.report.evaluate import in_turn

VOID = {"meta", "img", "link"}
HEADINGS = {
    "metadata": ["Entries"],
    "match": ["Match rates"],
    "balance": ["Balance", "Head entries"],
    "curate": ["What was kept", "Languages before and after", "Entries before and after", "Examples"],
    "train": ["Training"],
    "evaluate": ["Gallery", "Results", "By language"],
}


class Page(HTMLParser):
    """The text, headings and attributes of a page; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run that every test reads, and none changes."""
    return write_made_up_run(tmp_path_factory.mktemp("runs") / "made_up")


@pytest.fixture(scope="module")
def html(run_dir) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(html) -> str:
    return " ".join(Page(html).text)


@pytest.fixture
def copy(run_dir, tmp_path) -> Path:
    """A copy of the run to change."""
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def read_page(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def change_report(run_dir: Path, stage: str, change) -> None:
    report = read_json(run_dir / stage / "report.json")
    change(report)
    write_json(run_dir / stage / "report.json", report)


def test_page_shows_every_stage_and_every_language(html, text):
    headings = Page(html).headings
    assert headings[:2] == ["Summary", "Gallery"]
    assert sorted(headings[1:]) == sorted(heading for stage in HEADINGS.values() for heading in stage)
    for lang in LANGS:
        assert re.search(rf"\b{lang}\b", text)
    assert "Mean over 14 languages: en es ja ko pt it fr de fa id zh ru tr ar." in text
    assert "chance 0.13%" in text


def test_links_stand_in_three_groups(html):
    (navigation,) = re.findall(r"<nav.*?</nav>", html, re.DOTALL)
    assert re.findall(r"<b>(.*?)</b>", navigation) == ["Model", "Pairs", "Entries"]
    assert navigation.count("<a ") == html.count("<h2>")


@pytest.mark.parametrize("part", ["balance", "entries-before-and-after"])
def test_three_curves_are_in_sight_and_the_others_folded(html, part):
    (section,) = re.findall(rf'<section id="{part}">.*?</section>', html, re.DOTALL)
    in_sight, _, others = section.partition("<details>")
    assert in_sight.count("<figure>") == 3
    assert others.count("<figure>") == 9
    assert section.count('class="curve below"') == 12  # grey is broader than the blue on it


def test_page_is_self_contained(html):
    for forbidden in ("<script", "@import", "url("):
        assert forbidden not in html
    sources = [value for _, name, value in Page(html).attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith(("data:image/", "data:,", "#")) for value in sources)


@pytest.mark.parametrize("stage", HEADINGS)
def test_stage_that_has_not_run_is_left_out(copy, stage):
    shutil.rmtree(copy / stage)
    left = [heading for name, headings in HEADINGS.items() if name != stage for heading in headings]
    assert sorted(read_page(copy).headings[1:]) == sorted(left)


def test_empty_run_still_has_a_page(tmp_path):
    page = read_page(tmp_path)
    assert page.headings == ["Summary"]
    assert "no stage yet" in " ".join(page.text)


def test_texts_of_the_pool_are_never_markup(copy):
    hostile = '<script>alert(1)</script> & "quotes" \''

    def rename_entries(report):
        for rows in report["top_entries"].values():
            rows[0]["entry"] = hostile

    def rename_answers(report):
        for image in report["gallery"]:
            for answers in image["names"].values():
                answers["truth"] = answers["best"][0]["name"] = hostile

    change_report(copy, "balance", rename_entries)
    change_report(copy, "evaluate", rename_answers)
    html = write_report(copy).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "".join(Page(html).text).count(hostile) > 10


def test_texts_read_in_their_own_direction(html):
    for lang in ("fa", "ja"):
        assert f'<bdi dir="auto" lang="{lang}">{NAMES[lang][0]}</bdi>' in html


def test_page_shows_the_numbers_of_report_json(run_dir, text):
    rows = read_json(run_dir / "curate" / "report.json")["languages"]
    for lang in LANGS:
        assert f"{rows[lang]['pairs_out']:,} of {rows[lang]['pairs_in']:,}" in text
    assert f"{sum(row['pairs_out'] for row in rows.values()):,} of" in text


def test_incomplete_last_line_of_the_log_is_ignored(copy):
    log = copy / "train" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 66', encoding="utf-8")
    assert "Training" in read_page(copy).headings


def test_unfinished_training_shows_its_curves_and_a_log_without_finite_loss_says_so(text, tmp_path):
    (tmp_path / "train").mkdir()
    rows = [{"step": i, "samples_seen": 256 * i, "loss": None, "lr": 1e-3} for i in (1, 2)]
    (tmp_path / "train" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = read_page(tmp_path)
    assert page.headings == ["Summary", "Training"]
    assert "no finite loss" in " ".join(page.text)
    assert "7.5 epochs of 22,664 pairs in 3.7 minutes, 773 samples per second." in text
    assert "2 draws met an unusable image (undecodable_image) and were replaced." in text


def test_match_rates_by_language(run_dir, text):
    texts = read_json(run_dir / "match" / "report.json")["texts"]
    assert f"{texts['ja']['matched'] / (texts['ja']['matched'] + 300):.1%}" in text


def test_examples_say_why_they_were_kept_or_dropped(html):
    text = "".join(Page(html).text)
    assert "سیب قرمز (3,000): keep probability 0.250, coin 0.500" in text
    assert "its language is excluded" in text
    assert "label xx, probability 0.30" in text
    assert '<bdi dir="auto" lang="fa">سیب قرمز 1</bdi>' in html


def test_page_says_what_the_held_out_sets_are(html):
    assert html.count("<dt>emoji_tone</dt><dd>Made &lt;up&gt;: 250 pictures.</dd>") == 1
    assert html.index("<dt>emoji_tone") < html.index('id="gallery"')


def test_no_table_has_an_empty_column(html):
    for table in re.findall(r"<table>(.*?)</table>", html):
        rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table)[1:]]
        assert all(any(cells) for cells in zip(*rows, strict=True)), table[:200]


def test_page_has_one_set_of_metric_words(text):
    assert "top-5" in text
    assert not re.search(r"\bacc[15]\b|retrieval recall", text)


def test_charts_are_not_enlarged_beyond_their_text(html):
    for width, widest in re.findall(r'<svg viewBox="0 0 (\d+) \d+"[^>]*max-width:(\d+)px', html):
        assert int(width) <= 400, "a telephone shows 400 pixels: wider charts have tiny text"
        assert int(widest) <= 1.5 * int(width)


def test_gallery_shows_right_and_wrong_images_in_turn():
    def image(key, is_right):
        return {"key": key, "names": {"en": {"best": [{"is_right": is_right}]}}}

    images = [image(key, key.startswith("r")) for key in ("r1", "r2", "r3", "w1")]
    assert [image["key"] for image in in_turn(images)] == ["r1", "w1", "r2", "r3"]
