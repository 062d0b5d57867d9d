"""report.html: one file that opens anywhere, shows what the stages found, and leaves out what has not run."""

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
from worldclip.report.charts import Line, axis_over, line_chart, tick_text

VOID = {"meta", "img"}
HEADINGS = {
    "metadata": ["Entries"],
    "match": ["Match rates", "Language identification"],
    "balance": ["Balance", "Size against threshold", "Head entries"],
    "curate": ["What was kept", "Languages before and after", "What sampling did to the entries", "Examples"],
    "train": ["Training"],
    "evaluate": ["Results", "Languages, families, scripts", "Accuracy by language", "Gallery"],
}


class Page(HTMLParser):
    """What a reader gets: text, headings, attributes; complains of tags that do not close in turn."""

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

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return write_made_up_run(tmp_path_factory.mktemp("runs") / "made_up")


def read_page(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_the_page_shows_every_stage_and_each_language(run_dir):
    page = read_page(run_dir)
    assert page.headings[0] == "Summary"
    assert sorted(page.headings[1:]) == sorted(heading for stage in HEADINGS.values() for heading in stage)
    text = " ".join(page.text)
    for lang in LANGS:
        assert re.search(rf"\b{lang}\b", text)
    assert "Mean over 14 languages: en es ja ko pt it fr de fa id zh ru tr ar." in text
    assert "chance 0.13%" in text


def test_the_page_needs_nothing_from_elsewhere(run_dir):
    html = write_report(run_dir).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html
    sources = [value for _, name, value in Page(html).attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith(("data:image/", "#")) for value in sources)


@pytest.mark.parametrize("stage", HEADINGS)
def test_a_stage_that_has_not_run_is_left_out(run_dir, tmp_path, stage):
    partial = tmp_path / "run"
    shutil.copytree(run_dir, partial)
    shutil.rmtree(partial / stage)
    left = [heading for name, headings in HEADINGS.items() if name != stage for heading in headings]
    if stage == "match":  # sizes are about matches
        left.remove("Size against threshold")
    assert sorted(read_page(partial).headings[1:]) == sorted(left)


def test_each_stage_has_a_page_of_its_own_part(run_dir):
    write_report(run_dir)
    for stage, headings in HEADINGS.items():
        assert Page((run_dir / stage / "report.html").read_text(encoding="utf-8")).headings == headings


def test_a_run_of_nothing_still_has_a_page(tmp_path):
    page = read_page(tmp_path)
    assert page.headings == ["Summary"]
    assert "no stage yet" in " ".join(page.text)


def test_words_of_the_pool_are_text_never_markup(run_dir, tmp_path):
    hostile = '<script>alert(1)</script> & "quotes" \''
    partial = tmp_path / "run"
    shutil.copytree(run_dir, partial)
    for stage, change in (("balance", _rename_entries), ("evaluate", _rename_answers)):
        report = read_json(partial / stage / "report.json")
        change(report, hostile)
        write_json(partial / stage / "report.json", report)
    html = write_report(partial).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "".join(Page(html).text).count(hostile) > 10


def _rename_entries(report, name):
    for rows in report["top_entries"].values():
        rows[0]["entry"] = name


def _rename_answers(report, name):
    for image in report["gallery"]:
        for answers in image["names"].values():
            answers["truth"] = answers["best"][0]["name"] = name


def test_words_of_every_script_read_in_their_own_direction(run_dir):
    html = write_report(run_dir).read_text(encoding="utf-8")
    for lang in ("fa", "ja"):
        assert f'<bdi dir="auto" lang="{lang}">{NAMES[lang][0]}</bdi>' in html


def test_numbers_of_what_was_kept_are_the_reports_own(run_dir):
    rows = read_json(run_dir / "curate" / "report.json")["languages"]
    text = " ".join(read_page(run_dir).text)
    for lang in LANGS:
        assert f"{rows[lang]['pairs_out']:,} of {rows[lang]['pairs_in']:,}" in text
    assert f"{sum(row['pairs_out'] for row in rows.values()):,} of" in text


def test_a_line_of_the_log_that_is_being_written_is_left_for_later(run_dir, tmp_path):
    partial = tmp_path / "run"
    shutil.copytree(run_dir, partial)
    log = partial / "train" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 66', encoding="utf-8")
    assert "Training" in read_page(partial).headings


def test_a_training_that_is_not_finished_shows_its_curve_and_one_without_a_finite_loss_is_told(run_dir, tmp_path):
    (tmp_path / "train").mkdir()
    rows = [{"step": i, "samples_seen": 256 * i, "loss": None, "lr": 1e-3} for i in (1, 2)]
    (tmp_path / "train" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = read_page(tmp_path)
    assert page.headings == ["Summary", "Training"]
    assert "no finite loss" in " ".join(page.text)
    text = " ".join(read_page(run_dir).text)
    assert "7.5 times over 22,664 pairs in 3.7 minutes, 773 samples a second." in text
    assert "2 draws met an image that is no use (undecodable_image)." in text


def test_a_curve_keeps_points_that_its_axes_have_a_place_for():
    chart = line_chart(
        [Line(name="a", x=[1, 10, 100], y=[0, 1, 1000])], x_label="x", y_label="y", x_log=True, y_log=True
    )
    points = re.search(r'd="([^"]*)"', chart)
    assert points is not None
    assert len(re.findall("[ML]", points[1])) == 2  # 0 has no place on a logarithmic axis


def test_axes_of_equal_values_and_of_none_have_a_length():
    for values in ([3.0, 3.0], [], [float("nan")]):
        for log in (False, True):
            axis = axis_over(values, log=log)
            assert axis.low < axis.high
            assert axis.ticks()


def test_ticks_lie_on_the_axis_and_are_short():
    for low, high, log in (
        (0, 1, False),
        (1, 50_000, True),
        (-0.3, 0.7, False),
        (1990, 2010, False),
        (2e-5, 2e-3, False),
    ):
        axis = axis_over([low, high], log=log)
        shares = [axis.share(tick) for tick in axis.ticks()]
        assert len(shares) >= 2
        assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares)
        assert all(len(tick_text(tick)) <= 8 for tick in axis.ticks())
    assert [tick_text(value) for value in (0.5, 20, 5_000, 1_200_000, 29.4e9)] == ["0.5", "20", "5k", "1.2M", "29.4B"]


def test_match_rates_are_by_language_and_by_script(run_dir):
    texts = read_json(run_dir / "match" / "report.json")["texts"]
    text = " ".join(read_page(run_dir).text)
    assert f"{texts['ja']['matched'] / (texts['ja']['matched'] + 300):.1%}" in text
    latin = [texts[lang] for lang in ("en", "es", "pt", "it", "fr", "de", "id", "tr")]
    matched, whole = sum(row["matched"] for row in latin), sum(row["matched"] + row["no_match"] for row in latin)
    assert re.search(rf"Latn\s+8\s+{whole:,}\s+{matched / whole:.1%}\s+75.0%\s+87.5%\s+90.0%", text)
    assert "Profiles are compared on 2,800 texts" in text


def test_examples_say_why(run_dir):
    html = write_report(run_dir).read_text(encoding="utf-8")
    text = "".join(Page(html).text)
    assert "سیب قرمز (3,000): probability 0.250, coin 0.500, over the cap of its language" in text
    assert "its language is left out" in text
    assert "label xx, probability 0.30" in text
    assert '<bdi dir="auto" lang="fa">سیب قرمز 1</bdi>' in html


def test_sizes_of_other_matches_are_not_shown(run_dir, tmp_path):
    partial = tmp_path / "run"
    shutil.copytree(run_dir, partial)
    write_json(partial / "match" / "manifest.json", {"format_version": 1, "digest": "another"})
    assert "Size against threshold" not in read_page(partial).headings
