"""report.html: one file that opens anywhere, shows every stage and language, and leaves out what has not run."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from evaluated import caption_files, record, webdataset_files, write_checkpoint
from made_up_run import LANGS, NAMES, write_made_up_run, write_manifests
from made_up_world import made_up_world
from miniature import write_files
from model_folders import put_any_model_in_hub_cache
from worldclip.cli import main
from worldclip.core.artifacts import read_json, write_json, write_manifest
from worldclip.evaluate.report import held_out_combinations, task_result
from worldclip.evaluate.stage import _gallery_languages
from worldclip.language import table as languages
from worldclip.language.table import INSTALLED
from worldclip.model import load as model_load
from worldclip.report import balance, curate, metadata, write_evaluation, write_report
from worldclip.report.by_language import find_language, language_map, languages_section
from worldclip.report.evaluate import held_out_section, in_turn, published_section, results_section
from worldclip.report.numbers import percent
from worldclip.report.results import by_task_of_runs
from worlds import WordModel

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


def section_of(html: str, name: str) -> str:
    (section,) = re.findall(rf'<section id="{name}">.*?</section>', html, re.DOTALL)
    return section


def bars_of(body: str) -> list[str]:
    return re.findall(r'<span class="b">(.*?)</span>', body)


def test_page_shows_every_stage_and_every_language(html, text):
    headings = Page(html).headings
    assert headings[:2] == ["Summary", "Gallery"]
    assert sorted(headings[1:]) == sorted(heading for stage in HEADINGS.values() for heading in stage)
    (navigation,) = re.findall(r"<nav.*?</nav>", html, re.DOTALL)
    assert navigation.count("<a ") == len(headings)
    for lang in LANGS:
        assert re.search(rf"\b{lang}\b", text)
    assert "Mean over 14 languages: English, Spanish, Japanese, Korean, " in text
    assert "no language" in text
    assert not re.search(r"\bund\b|`", text)
    for lang, name in re.findall(r"<dt>(\w+)</dt>.*?lang=\"(\w+)\"", section_of(html, "gallery")):
        assert lang == INSTALLED.get(name).name
    assert "chance 0.13%" in text
    for part in ("balance", "entries-before-and-after"):
        in_sight, _, others = section_of(html, part).partition("<details>")
        assert (in_sight.count("<figure>"), others.count("<figure>")) == (3, 9)


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


def test_an_evaluation_of_another_checkpoint_is_left_out(copy):
    checkpoint = write_checkpoint(copy, 10)
    page = read_page(copy)
    assert "Gallery" not in page.headings
    assert "Left out: evaluate (it is of " in " ".join(page.text)
    report = read_json(copy / "evaluate" / "report.json")
    write_json(copy / "evaluate" / "report.json", report | {"model_digest": model_load.find(checkpoint).digest()})
    assert "Gallery" in read_page(copy).headings


def test_what_was_made_before_a_stage_above_ran_again_is_left_out(copy):
    write_manifests(copy)
    assert "Left out" not in " ".join(read_page(copy).text)
    write_manifest(copy / "balance", config={"changed": True}, inputs={}, counts={})
    page = read_page(copy)
    assert "Left out: curate, train, evaluate, made before a change (balance ran again)" in " ".join(page.text)
    assert page.headings[1:] == ["Balance", "Head entries", "Match rates", "Entries"]
    (copy / "balance/manifest.json").unlink()
    assert read_page(copy).headings[1:] == ["Match rates", "Entries"], "it is unfinished"


def test_texts_of_the_pool_are_never_markup_and_read_in_their_own_direction(html, copy):
    for lang in ("fa", "ja"):
        assert f'<bdi dir="auto" lang="{lang}">{NAMES[lang][0]}</bdi>' in html
    hostile = '<script>alert(1)</script> & "quotes" \''
    reports = {stage: read_json(copy / stage / "report.json") for stage in ("balance", "evaluate")}
    for rows in reports["balance"]["top_entries"].values():
        rows[0]["entry"] = hostile
    for image in reports["evaluate"]["gallery"]:
        for answers in image["names"].values():
            answers["truth"] = answers["best"][0]["name"] = hostile
    for stage, report in reports.items():
        write_json(copy / stage / "report.json", report)
    changed = write_report(copy).read_text(encoding="utf-8")
    assert "<script" not in changed
    assert "".join(Page(changed).text).count(hostile) > 10


def test_page_shows_the_numbers_of_report_json(run_dir, html, text):
    rows = read_json(run_dir / "curate" / "report.json")["languages"]
    num_in, num_out = (sum(row[name] for row in rows.values()) for name in ("pairs_in", "pairs_out"))
    shares = section_of(html, "languages-before-and-after")
    for lang in LANGS:
        assert f"{rows[lang]['pairs_out']:,} of {rows[lang]['pairs_in']:,}" in text
    for lang in sorted(LANGS, key=lambda lang: -rows[lang]["pairs_in"])[:3]:
        assert f"{percent(rows[lang]['pairs_in'] / num_in)} {curate.BEFORE_AFTER[0][1]}" in shares
        assert f"{percent(rows[lang]['pairs_out'] / num_out)} {curate.BEFORE_AFTER[1][1]}" in shares
    assert f"{num_out:,} of" in text
    texts = read_json(run_dir / "match" / "report.json")["texts"]
    assert f"{texts['ja']['matched'] / (texts['ja']['matched'] + 300):.1%}" in text
    assert "7.5 epochs of 22,664 pairs in 3.7 minutes, 773 samples per second." in text
    assert "2 draws met an unusable image (undecodable_image) and were replaced." in text
    assert "top-5" in text
    assert not re.search(r"\bacc[15]\b|retrieval recall", text)


def test_unfinished_trainings_and_empty_runs_have_a_page(copy, tmp_path):
    log = copy / "train" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 66', encoding="utf-8")
    assert "Training" in read_page(copy).headings
    page = read_page(tmp_path / "empty")
    assert page.headings == ["Summary"]
    assert "no stage yet" in " ".join(page.text)
    rows = [{"step": i, "samples_seen": 256 * i, "loss": None, "lr": 1e-3} for i in (1, 2)]
    write_files(tmp_path, {"new/train/log.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    page = read_page(tmp_path / "new")
    assert page.headings == ["Summary", "Training"]
    assert "no finite loss" in " ".join(page.text)


def test_examples_say_why_they_were_kept_or_dropped_and_sets_what_they_are(html):
    text = "".join(Page(html).text)
    assert "سیب قرمز (3,000): keep probability 0.250, coin 0.500" in text
    assert "its language is excluded" in text
    headings = re.findall("<h3>([^<]*)</h3>", html[html.index('id="examples"') :])
    assert headings[:2] == ["Kept", "Sampled out"]
    assert "label xx, probability 0.30" in text
    assert '<bdi dir="auto" lang="fa">سیب قرمز 1</bdi>' in html
    assert html.count("<dt>emoji_tone</dt><dd>Made &lt;up&gt;: 250 pictures.</dd>") == 1
    assert html.index("<dt>emoji_tone") < html.index('id="gallery"')


def test_gallery_shows_right_and_wrong_images_in_turn_in_a_language_of_each_script():
    images = [{"key": key, "names": {"en": {"best": [{"is_right": key[0] == "r"}]}}} for key in ("r1", "r2", "r3", "w")]
    assert [image["key"] for image in in_turn(images)] == ["r1", "w", "r2", "r3"]
    codes = ["ab", "am", "ar", "bg", "de", "el", "en", "hi", "ka", "ko", "ru", "sw", "th", "ti", "yo", "zh", "xx_Xxxx"]
    chosen = _gallery_languages(codes, INSTALLED)
    assert (chosen[0], len(chosen)) == ("en", 10)
    assert len({find_language(code, INSTALLED).script for code in chosen}) == 10
    assert chosen[1] in ("bg", "ru")  # of Cyrillic, which three of them use, one with many resources


# Evaluations
def test_languages_of_an_evaluation_are_sorted_and_have_their_interval_chance_and_family(html):
    numbers = section_of(html, "by-language")
    hover = r"\w+ (\w+): top-5 ([\d.]+)%, [\d.]+% to [\d.]+%, chance 0\.1[34]%; 250 queries; [\w -]+, [\w ]+"
    values = dict(re.findall(f'title="{hover}"', numbers))
    assert {"fr", "zh", "tr"} <= values.keys() < set(LANGS)
    order = list(dict.fromkeys(re.findall(r"<code>(\w+)</code>", numbers)))
    assert order == sorted(LANGS, key=lambda lang: -float(values.get(lang, 0)))  # one is at chance


def test_a_bar_draws_the_numbers_of_its_hover(html):
    bars = [bar for bar in bars_of(section_of(html, "by-language")) if "<s " in bar and "title" in bar]
    assert len(bars) > len(LANGS)
    for bar in bars:
        *bounds, chance = map(float, re.search(r"([\d.]+)% to ([\d.]+)%, chance ([\d.]+)%", bar).groups())
        low, length = map(float, re.search(r'<u style="left:([\d.]+)%;width:([\d.]+)%', bar).groups())
        assert [low, low + length] == pytest.approx(bounds, abs=0.06)
        assert float(re.search(r'<s style="left:([\d.]+)%', bar)[1]) == pytest.approx(chance, abs=0.006)


def test_language_codes_of_datasets_are_resolved():
    codes = ("zh_yue", "deu_Latn", "sw", "klingon", "xx_Xxxx")
    assert [getattr(find_language(code, INSTALLED), "code", None) for code in codes] == ["zh", "de", "sw", None, None]


def sections_of(task, records, name="set"):
    """Return the HTML of the results and of the numbers by language of a dataset with one task."""
    records = [{**record, "dataset": name, "task": task} for record in records]
    result = task_result(name, task, {record["lang"]: record for record in records})
    datasets = {name: {"num_images": 4, "num_bad_images": 1, "tasks": {task: result}}}
    return results_section({"datasets": datasets}, INSTALLED).body, languages_section(datasets, INSTALLED).body


def cells(body):
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]


def test_results_are_one_table_and_english_and_local_questions_are_not_averaged():
    shared = {"n": 4, "chance": {"accuracy": 0.25}, "intervals": {"accuracy": (0.1, 0.9)}}
    records = [
        record(lang, accuracy=value, slices={"country Kenya": {"accuracy": value}}, **shared)
        for lang, value in (("en", 0.5), ("local", 0.25))
    ]
    results, parts = sections_of("choice", records)
    assert cells(results)[1:] == [
        ["set", "choice", "accuracy", "50.0%", "", "English", "10.0% to 90.0%", "4"],
        ["", "", "accuracy", "25.0%", "", "local languages", "10.0% to 90.0%", "4"],
    ]
    assert "1 images could not be decoded" in results
    assert ["country Kenya", "50.0%", "25.0%", "3"] in cells(parts)
    assert "mean over" not in parts
    assert languages_section({}, INSTALLED) is None


def test_headlines_distances_and_metrics_that_a_part_lacks():
    records = [record(lang, intervals={"alignment": (1.0, 1.5)}, alignment=1.25) for lang in ("en", "de")]
    results, numbers = sections_of("alignment_uniformity", records)
    assert cells(results)[1] == ["set", "alignment uniformity", "alignment", "1.250", "2"]
    assert ["mean over 2", "1.250", ""] in cells(numbers)
    regions = record(acc1=0.5, slices={"region 0": {"acc1": 0.75}, "region 1": {"acc1": 0.25}})
    results, parts = sections_of("zeroshot_classification", [regions], "geode_datacomp")
    assert cells(results)[1][:4] == ["geode_datacomp", "zero-shot classification", "worst region top-1", "25.0%"]
    assert ["part", "top-1", "queries"] in cells(parts)


def test_a_language_without_a_right_answer_has_a_multiple_of_chance():
    _, numbers = sections_of("zeroshot_classification", [record(chance={"acc1": 0.1}, acc1=0.0)])
    assert [cell for row in cells(numbers) for cell in row if "×" in cell] == ["0.0×"]


def test_a_suite_has_its_mean_or_says_what_is_missing():
    task = task_result("pets", "zeroshot_classification", {"en": record("en", "pets", acc1=0.5)})
    report = {"datasets": {"pets": {"num_bad_images": 0, "tasks": {"zeroshot_classification": task}}}}
    complete = results_section({**report, "suite": {"name": "slip26", "mean": 0.625, "missing": []}}, INSTALLED).body
    assert "<b>62.5%</b><span>suite slip26</span>" in complete
    suite = {"name": "slip26", "mean": None, "missing": ["cars", "dtd"]}
    incomplete = results_section({**report, "suite": suite, "protocol": "Ties (`against`)."}, INSTALLED).body
    assert "No mean for suite slip26: 2 datasets are missing: cars, dtd." in incomplete
    assert "Ties (<code>against</code>)." in incomplete


def test_published_numbers_are_flagged_and_escaped():
    row = {
        "title": "CVQA <LOCAL>", "ours_pct": 50.0, "published_pct": 57.4, "difference_pct": -7.4, "differs": True,
        "over": "local", "source": "abstract", "is_secondary": True, "protocol": "micro"
    }  # fmt: skip
    body = published_section({"published": {"against": "ViT", "rows": [row]}}).body
    for shown in ("CVQA &lt;LOCAL&gt;", "<b>-7.4 !</b>", "(secondary)"):
        assert shown in body
    assert published_section({"datasets": {}}) is None


def test_suite_paper_prints_the_papers_table_for_available_datasets(tmp_path, monkeypatch, capsys):
    put_any_model_in_hub_cache("me/model", tmp_path, monkeypatch)
    write_files(tmp_path / "data/pets", webdataset_files(("cat", "dog"), ("cat", "owl")))
    write_files(tmp_path / "data/xm3600", caption_files(("cat", "dog"), langs=("en", "sw")))
    monkeypatch.setattr(model_load, "load", lambda source, **options: WordModel())
    arguments = ["evaluate", "me/model", "--out", str(tmp_path / "out"), "--suite", "paper"]
    arguments += ["--protocol", "own"]  # SLIP's names need all 37 breeds
    assert main(arguments) == 2
    assert 'evaluate.data = "": must be the folder of' in capsys.readouterr().err
    assert main([*arguments, "--data", str(tmp_path / "data"), "--allow-missing"]) == 0
    printed = capsys.readouterr().out
    rows = {tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in printed.splitlines() if "|" in line}
    assert ("Oxford-IIIT Pets", "mean_per_class_recall", "en", "100.0") in rows
    assert ("Crossmodal-3600", "text_retrieval_recall@1", "2 of 36", "100.0") in rows
    assert ("CVQA", "accuracy", "0", "missing") in rows
    assert ("XM3600 image > text R@1", "100.0", "64.3", "+35.7 !", "2 of 36", "abstract and README") in rows
    assert "Published numbers" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_english_and_local_questions_are_apart_also_in_a_run_with_english_ones_only():
    english, local = ({"dataset": "cvqa", "task": "choice", "lang": lang} for lang in ("en", "local"))
    for runs in ([[english, local], [english]], [[english], [english, local]]):
        groups = {lang: by_lang_of_runs for (_, _, lang), by_lang_of_runs in by_task_of_runs(runs).items()}
        assert groups["en"] == [{"en": english}, {"en": english}]
        assert groups["local"] == [{"local": local} if local in run else {} for run in runs]


# Hundreds of languages
def scored(value, low=None):
    bounds = [value - 0.05 if low is None else low, value + 0.05]
    chance = {"acc1": 0.002, "acc5": 0.01}
    return {"n": 100, "metrics": {"acc1": value / 2, "acc5": value}, "chance": chance, "num_classes": 500,
            "interval_95": {"acc5": bounds, "acc1": bounds}}  # fmt: skip


def test_cells_are_sorted_and_coloured_by_times_chance():
    values = {"sw": 0.02, "yo": 0.4, "zu": 1.0, "ig": 0.2, "sn": 0.03, "en": 0.3, "xh": 0.029}
    records = {lang: scored(value, low=0.01 if lang == "sw" else value) for lang, value in values.items()}  # of chance
    known = {lang: INSTALLED.get(lang) for lang in values}
    drawn = language_map(records, "acc5", known, {lang: f"<{lang}>" for lang in values})
    assert "<b>Swahili</b>" in drawn
    cells = re.findall(r'<span class="c ([\w-]+)" title="&lt;(\w+)&gt;"><b>\w+</b><small>([\d.,]+×)</small>', drawn)
    assert cells == [
        ("step4", "zu", "100×"), ("step3", "yo", "40×"), ("step2", "ig", "20×"), ("step1", "sn", "3.0×"),
        ("step0", "xh", "2.9×"), ("at-chance", "sw", "2.0×"), ("step3", "en", "30×"),
    ]  # fmt: skip
    assert "Atlantic-Congo <small>6</small>" in drawn
    assert "other families <small>1</small>" in drawn  # a family of one has no heading
    records = {"sw": scored(0.5), "klingon": scored(0.5), "yo": {**scored(0.5), "chance": {}}}
    drawn = language_map(records, "acc5", {lang: known[lang] for lang in ("sw", "yo")}, dict.fromkeys(records, ""))
    assert re.findall(r"<b>(\w+)</b>", drawn) == ["Swahili"]  # the others are unknown, or have no chance


def test_held_out_pictures_are_beside_the_others():
    random = np.random.default_rng(0)
    hits, is_held = random.random(250) < 0.4, np.arange(250) % 10 == 0
    chance = {"acc1": 1 / 250}

    def of(mask):
        return {"n": int(mask.sum()), "metrics": {"acc1": float(hits[mask].mean())}, "chance": chance}

    whole, held = of(np.ones(250, bool)), of(is_held)
    other = {**held, "chance": {"acc1": 0.5}}  # among other names: not comparable
    records = {"world_flags": {"sw": whole, "yo": whole}, "world_flags_held": {"sw": held, "yo": other}}
    (row,) = held_out_combinations(records)
    assert (row["dataset"], row["lang"], row["num_seen"], row["num_held"]) == ("world_flags", "sw", 225, 25)
    assert (row["seen"], row["held"]) == (pytest.approx(hits[~is_held].mean()), hits[is_held].mean())
    assert held_out_combinations({"world_flags": {"sw": whole}}) == []
    for name in ("mine", "world_tone"):  # a folder of the user that merely ends so
        assert held_out_combinations({name: {"sw": whole}, f"{name}_held": {"sw": held}}) == []
    table = cells(held_out_section({"held_out": [row]}, INSTALLED).body)
    assert table[2][:2] == ["world_flags", "mean over 1"]
    assert table[1][3:] == [*table[2][3:6], "225", "25"]
    others = [{**row, "dataset": "more", "lang": lang, "seen": seen} for lang, seen in (("sw", 0.5), ("yo", 0.25))]
    of_both = cells(held_out_section({"held_out": [row, *others]}, INSTALLED).body)
    assert table[2] in of_both, "a mean is of its own dataset"
    assert ["more", "mean over 2", "37.5%"] in [[cells[0], cells[1], cells[3]] for cells in of_both]


def test_page_of_all_languages_has_map_and_held_out_table(tmp_path):
    write_json(tmp_path / "report.json", made_up_world())
    page = write_evaluation(tmp_path).read_text(encoding="utf-8")
    assert len({lang for _, lang in re.findall(r'class="c ([\w-]+)"[^>]*><b>([^<]+)</b>', page)}) > 300
    for shown in ('id="held-out-combinations"', "times chance</th>", "<td>Atlantic-Congo, Latin, low</td>"):
        assert shown in page
    assert re.search(r"Mean over \d+ languages, by name", page)
    table = page[page.index("All metrics of zero-shot classification, languages by name") :].partition("</table>")[0]
    names = re.findall(r"<tr><td>([^<]+) <code>", table)
    assert len(names) > 300
    assert names == sorted(names, key=str.casefold)
    assert len(page) < 2_000_000
    for forbidden in ("<script", "http://"):
        assert forbidden not in page


def rows_in_sight(body: str) -> int:
    """Return the number of table rows and bars outside of folded parts."""
    while (without := re.sub(r"<details>(?:(?!<details>).)*?</details>", "", body, flags=re.DOTALL)) != body:
        body = without
    return body.count("<tr") + body.count('class="l"')


def test_the_largest_languages_are_in_sight_and_the_others_folded():
    codes = sorted(code for code in languages.by_code() if code != "other")
    row = {"pairs_in": 10, "pairs_out": 5, "sampled_out": 5, "expected_pairs": 5.0}
    report = {"text_policy": "all", "languages": dict.fromkeys(codes, row), "effect": {}, "samples": {}}
    first = curate.sections(report, INSTALLED)[0].body
    assert rows_in_sight(first) == curate.MAX_BARS
    assert first.count("<code>") == 2 * len(codes)
    entry = {"entry": "<b>", "source": "pool", "matches": 7, "prob": 0.5}
    curve = {"rank": [1, 2], "matches": [7, 3], "balanced": [3, 3], "effective_entries": [2.0, 2.0]}
    lists = {
        code: {"threshold": 3, "tail_fraction": 0.1, "num_entries": 9, "num_matched_entries": 2, "num_matches": 10 + n}
        for n, code in enumerate(codes)
    }
    report = {"lists": lists, "warnings": [], "curves": dict.fromkeys(codes, curve),
              "top_entries": {code: [entry] * 12 for code in codes}}  # fmt: skip
    thresholds, heads = balance.sections(report, INSTALLED)
    assert rows_in_sight(thresholds.body) == balance.MAX_ROWS + 1
    assert thresholds.body.count('<td class="n">10.0%</td>') == len(codes)
    assert rows_in_sight(heads.body) == balance.OPEN_LISTS * (balance.HEAD_ENTRIES + 1)
    assert "&lt;b&gt;" in heads.body
    assert all(f"<code>{code}</code>" in heads.body for code in codes)


def test_all_lists_as_one_are_no_further_language_and_no_further_entries():
    lists = {"en": {"entries": 10}, "sw": {"entries": 5}, "merged": {"entries": 12}}
    (card,) = metadata.cards({"lists": lists})
    assert (card.value, card.remark) == ("15", "in 2 languages")


@pytest.mark.parametrize(("pairs_in", "pairs_out"), [(1, 500), (9_000, 0)])
def test_a_language_that_is_large_in_the_pool_or_among_kept_pairs_is_in_sight(pairs_in, pairs_out):
    codes = sorted(languages.by_code())[: curate.NUM_SHARES + 5]
    rows = {code: {"pairs_in": 100, "pairs_out": 50, "expected_pairs": 50.0} for code in codes}
    rows["sw"] = {"pairs_in": pairs_in, "pairs_out": pairs_out, "expected_pairs": float(pairs_out)}
    report = {"text_policy": "all", "languages": rows, "effect": {}, "samples": {}}
    shares = curate.sections(report, INSTALLED)[1]
    assert shares.heading == "Languages before and after"
    assert "<code>sw</code>" in shares.body
    lengths = [sum(map(float, re.findall(r"width:([\d.]+)%", bar))) for bar in bars_of(shares.body)]
    assert max(lengths) == 100
    num_kept = sum(1 for row in rows.values() if row["pairs_out"])
    assert [card.value for card in curate.cards(report)][1] == str(num_kept)


def test_the_parts_of_a_language_s_bar_are_its_pairs_by_fate(html):
    bars = bars_of(section_of(html, "what-was-kept"))
    assert len(bars) > len(LANGS)
    for bar in bars:
        assert sum(map(float, re.findall(r"width:([\d.]+)%", bar))) == pytest.approx(100, abs=0.01)
