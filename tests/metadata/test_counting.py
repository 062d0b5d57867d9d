"""Wikipedias through the whole stage: shares and caps, merges, resume, failures, real text in many scripts."""

from __future__ import annotations

import bz2
import dataclasses
import errno
import gzip
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import finish, run_stage
from worldclip import metadata
from worldclip.config import Recipe, load_recipe
from worldclip.core.artifacts import read_manifest
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.metadata import ngrams
from worldclip.metadata.config import WikipediaRules
from worldclip.metadata.sources.dumps import read_articles

QUIET = LocalExecutor(workers=1, quiet=True)

SWAHILI = ["Paka ni mnyama. " * 8, "Simba ni mnyama mkubwa. " * 6, "Paka mweusi na mbwa mweupe, ndege wa angani."]


def write_dump(path: Path, texts: list[str], namespaces: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [
        f"<page><title>T{n}</title><ns>0</ns><revision><text>{escape(text)}</text></revision></page>"
        for n, text in enumerate(texts)
    ]
    xml = f"<mediawiki><siteinfo><namespaces>{namespaces}</namespaces></siteinfo>{''.join(pages)}</mediawiki>"
    path.write_bytes(bz2.compress(xml.encode()))
    return path


def write_parquet(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"title": [f"T{n}" for n in range(len(texts))], "text": texts}), path)
    return path


def write_views(folder: Path, *hours: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, lines in enumerate(hours):
        text = "".join(f"{line.strip()}\n" for line in lines.split(","))
        (folder / f"pageviews-20240101-{n:02}0000.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def recipe(*codes: str, isolate: str = "language", **values: Any) -> Recipe:
    """A recipe with `values` as keys of metadata or, where they are rules of a Wikipedia, of metadata.overrides."""
    rules = {field.name for field in dataclasses.fields(WikipediaRules)}
    overrides = {"unigram_top_fraction": 1.0, **{key: value for key, value in values.items() if key in rules}}
    others = {key: value for key, value in values.items() if key not in rules}
    return load_recipe(
        {
            "pool": {"path": "."},
            "balance": {"tail_fraction": 0.1},
            "match": {"isolate": isolate},
            "languages": {"codes": list(codes)},
            "metadata": {
                "sources": ["unigram", "bigram", "title"],
                "allow_missing": ["unigram", "bigram", "title"],
                "overrides": overrides,
                **others,
            },
        }
    )


def entries(run_dir: Path, lang: str, source: str) -> dict[str, float]:
    rows = metadata.read_entries(run_dir, lang).to_pylist()
    return {row["entry"]: row["score"] for row in rows if row["source"] == source}


def test_order_is_unigrams_by_count_bigrams_by_pmi_titles_by_views(tmp_path: Path):
    write_dump(tmp_path / "dumps" / "sw" / "swwiki-pages-articles1.xml.bz2", SWAHILI[:2])
    write_dump(tmp_path / "dumps" / "sw" / "swwiki-pages-articles2.xml.bz2", SWAHILI[2:])
    write_views(tmp_path / "dumps" / "pageviews", "sw Paka 5 0, sw Duma 9 0", "sw.m Chui_wa_Bara 3 0, sw.b Kitabu 99 0")
    finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps"), bigram_min_count=5), tmp_path / "run", QUIET)
    unigrams = entries(tmp_path / "run", "sw", "unigram")
    expected = {"mnyama": 14, "ni": 14, "Paka": 9, "Simba": 6, "mkubwa": 6}
    assert list(unigrams.items())[:5] == list(expected.items())
    assert list(unigrams)[5:] == sorted(["mweusi", "na", "mbwa", "mweupe", "ndege", "wa", "angani"])
    # Of bigrams seen 5 times: c(ab) / (c(a) c(b)) is 6/84, 14/196, 6/84 and 8/126; equal ones by count.
    assert list(entries(tmp_path / "run", "sw", "bigram")) == ["ni mnyama", "Simba ni", "mnyama mkubwa", "Paka ni"]
    titles = entries(tmp_path / "run", "sw", "title")
    assert list(titles.items()) == [("Duma", 9), ("Chui wa Bara", 3)]  # 76% of three are all; Paka is an entry already


def test_shares_are_rounded_up_and_caps_count_only_new_entries(tmp_path: Path):
    (tmp_path / "wn.tab").write_text("# X\tsw\turl\tfree\n1-n\tswa:lemma\tpaka\n2-n\tswa:lemma\tni\n")
    dump = write_parquet(tmp_path / "a.parquet", [*["ni paka mbwa simba"] * 6, "a b c d e f"])
    values = {
        "sources": ["wordnet", "unigram", "bigram"],
        "wordnets": {"sw": str(tmp_path / "wn.tab")},
        "wikipedia": {"sw": str(dump)},
    }
    finish("metadata", recipe("sw", **values, max_unigrams=3), tmp_path / "cap", QUIET)
    assert list(entries(tmp_path / "cap", "sw", "unigram")) == ["mbwa", "simba", "a"]
    assert list(entries(tmp_path / "cap", "sw", "bigram")) == ["mbwa simba", "ni paka"]  # 0.4 x 3, rounded up
    finish("metadata", recipe("sw", **{**values, "unigram_top_fraction": 0.21}), tmp_path / "share", QUIET)
    assert list(entries(tmp_path / "share", "sw", "unigram")) == ["mbwa", "simba", "a"]  # 3 of 10, new ones


def test_bigrams_that_are_entries_already_do_not_count_towards_cap(tmp_path: Path):
    names = [f"w{n:03} v{n:03}" for n in range(300)]
    dump = write_parquet(tmp_path / "a.parquet", [f"{name}. " * 5 for name in names])
    lists = "".join(f"{n}-n\tswa:lemma\t{name}\n" for n, name in enumerate(names[:250]))
    (tmp_path / "wn.tab").write_text(f"# X\tsw\turl\tfree\n{lists}")
    config = recipe(
        "sw",
        sources=["wordnet", "bigram"],
        wordnets={"sw": str(tmp_path / "wn.tab")},
        wikipedia={"sw": str(dump)},
        max_bigrams=7,
    )
    finish("metadata", config, tmp_path / "run", QUIET)
    assert list(entries(tmp_path / "run", "sw", "bigram")) == names[250:257]


def test_punctuation_of_reference_is_ascii_alone_and_another_rule_counts_again(tmp_path: Path):
    dump = write_parquet(tmp_path / "a.parquet", ["jua — mwezi", "«jua» ni, mwezi"])
    values = {"wikipedia": {"sw": str(dump)}, "sources": ["unigram", "bigram"], "bigram_min_count": 1}
    expected = {
        "unicode": (["mwezi", "jua", "ni", "«jua»"], ["«jua» ni"]),
        "ascii": (["mwezi", "jua", "ni", "«jua»"], ["jua —", "«jua» ni"]),  # `—` is a word, and alone no entry
    }
    for punctuation, lists in expected.items():
        config = recipe("sw", **values, punctuation=punctuation, bigram_fraction=0.5)
        assert run_stage("metadata", config, tmp_path / "run", QUIET)
        assert tuple(list(entries(tmp_path / "run", "sw", s)) for s in ("unigram", "bigram")) == lists


def test_rule_pmi_takes_bigrams_above_threshold(tmp_path: Path):
    dump = write_parquet(tmp_path / "a.parquet", ["a b a b a", "a b c"])  # PMI of ab 1.0, bc log2(8/3) = 1.41
    for least, expected in ((1.0, ["b c"]), (0.99, ["b c", "a b"])):
        config = recipe("sw", wikipedia={"sw": str(dump)}, bigram_rule="pmi", bigram_min_pmi=least)
        finish("metadata", config, tmp_path / f"run{least}", QUIET)
        assert list(entries(tmp_path / f"run{least}", "sw", "bigram")) == expected


def test_english_v1_uses_counts(tmp_path: Path):
    dump = write_parquet(tmp_path / "a.parquet", ["a b a b a", "a b c"])
    views = write_views(tmp_path / "views", "en Cat 60 0, en Dog 20 0, en.m Cat 99 0", "en Cat 9 0, en Dog 80 0")
    values = {"wikipedia": {"en": str(dump)}, "pageviews": str(views), "unigram_top_fraction": 0.1}
    v1 = {"english_min_unigram_count": 3, "bigram_min_pmi": 1.0, "english_min_title_views": 70}
    finish("metadata", recipe("en", **values, **v1), tmp_path / "v1", QUIET)
    assert list(entries(tmp_path / "v1", "en", "unigram").items()) == [("a", 4), ("b", 3)]
    assert list(entries(tmp_path / "v1", "en", "bigram")) == ["b c", "a b"]  # PMI reaches 1.0
    assert entries(tmp_path / "v1", "en", "title") == {"Dog": 80}  # Cat has 60 in hours of 50 views
    finish("metadata", recipe("en", **values, english_rule="as_others"), tmp_path / "others", QUIET)
    assert list(entries(tmp_path / "others", "en", "unigram")) == ["a"]
    assert entries(tmp_path / "others", "en", "title") == {"Cat": 168, "Dog": 100}


def test_english_v1_drops_every_title_with_a_colon(tmp_path: Path):
    write_dump(tmp_path / "dumps/en/a.xml.bz2", ["a b"], '<namespace key="6">File</namespace>')
    write_views(tmp_path / "dumps/pageviews", "en Terminator_2:_Judgment_Day 90 0, en Cat 80 0")
    for rule, expected in (("v1", ["Cat"]), ("as_others", ["Terminator 2: Judgment Day", "Cat"])):
        config = recipe("en", dumps=str(tmp_path / "dumps"), english_rule=rule, english_min_unigram_count=1)
        finish("metadata", config, tmp_path / rule, QUIET)
        assert list(entries(tmp_path / rule, "en", "title")) == expected


def test_wikipedias_of_one_language_are_joined_source_by_source(tmp_path: Path):
    zh = write_parquet(tmp_path / "zh.parquet", ["我喜欢北京。" * 5])
    yue = write_parquet(tmp_path / "yue.parquet", ["香港。" * 5 + "澳門"])
    config = recipe("zh", wikipedia={"zh": str(zh), "zh_yue": str(yue)}, unigram_top_fraction=0.5)
    finish("metadata", config, tmp_path / "run", QUIET)
    assert list(entries(tmp_path / "run", "zh", "unigram")) == ["北京", "喜欢", "香港"]
    assert list(entries(tmp_path / "run", "zh", "bigram")) == ["喜欢北京"]


def test_other_is_union_of_wikipedias_without_label(tmp_path: Path):
    files = {wiki: write_parquet(tmp_path / wiki / "a.parquet", [f"neno{wiki} neno"]) for wiki in ("ab", "ace", "sw")}
    config = recipe("other", wikipedia={wiki: str(path) for wiki, path in files.items()})
    finish("metadata", config, tmp_path / "run", QUIET)
    assert list(entries(tmp_path / "run", "other", "unigram")) == ["neno", "nenoab", "nenoace"]


@pytest.mark.parametrize("where", ["siteinfo", "xml", "unknown", "rule"])
def test_namespaces_come_from_siteinfo_or_dump(where: str, tmp_path: Path):
    namespace = '<namespace key="6">Picha</namespace>' if where == "xml" else ""
    folder = tmp_path / "dumps" / "sw"
    if where == "unknown":
        write_parquet(folder / "a.parquet", ["neno"])
    else:
        write_dump(folder / "sw-pages-articles.xml.bz2", ["neno"], namespace)
    if where == "siteinfo":
        site = {"query": {"namespaces": {"6": {"canonical": "File", "*": "Picha"}}}}
        (folder / "swwiki-20240101-siteinfo-namespaces.json").write_text(json.dumps(site))
    write_views(tmp_path / "dumps" / "pageviews", "sw Picha:Paka.jpg 5 0, sw Terminator_2:_Hukumu 4 0, sw Paka 3 0")
    rule = "colon" if where == "rule" else "namespaces"
    finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps"), title_rule=rule), tmp_path / "run", QUIET)
    articles = ["Paka"] if where in ("unknown", "rule") else ["Terminator 2: Hukumu", "Paka"]
    assert list(entries(tmp_path / "run", "sw", "title")) == articles
    titles_alone = recipe("sw", dumps=str(tmp_path / "dumps"), title_rule=rule, sources=["title"])
    finish("metadata", titles_alone, tmp_path / "titles", QUIET)
    assert list(entries(tmp_path / "titles", "sw", "title")) == articles


def test_manifest_names_every_file_with_its_licence(tmp_path: Path):
    write_parquet(tmp_path / "dumps" / "sw" / "a.parquet", ["neno"])
    write_views(tmp_path / "dumps" / "pageviews", "sw Paka 3 0", "sw Simba 3 0")
    finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    manifest = read_manifest(tmp_path / "run" / "metadata")
    assert manifest is not None
    (text, views) = manifest["sources"]["sw"]
    assert (text["source"], text["file"], text["licence"][:12]) == ("wikipedia", "a.parquet", "CC BY-SA 4.0")
    assert (views["source"], views["page_view_files"]) == ("title", 2)
    assert [file["licence"][:7] for file in manifest["pageviews"]] == ["CC0 1.0"] * 2
    assert manifest["inputs"]["sw"]["wikipedia"]["icu"][0].isdigit()


def run_files(run_dir: Path) -> dict[str, int]:
    """When each file of counts was written."""
    folder = run_dir / "metadata"
    counts = [*folder.glob("ngrams/**/*"), *folder.glob("views/**/*")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in counts if path.is_file()}


def test_changed_cap_or_new_language_recounts_nothing(tmp_path: Path):
    for wiki in ("sw", "yo"):
        write_parquet(tmp_path / "dumps" / wiki / "a.parquet", ["neno moja mbili"])
    values = {"dumps": str(tmp_path / "dumps"), "sources": ["unigram"]}
    assert run_stage("metadata", recipe("sw", **values), tmp_path / "run", QUIET)
    first = run_files(tmp_path / "run")
    assert run_stage("metadata", recipe("sw", "yo", **values, max_unigrams=2), tmp_path / "run", QUIET)
    second = run_files(tmp_path / "run")
    assert len(entries(tmp_path / "run", "sw", "unigram")) == 2
    assert {name: second[name] for name in first} == first
    assert len(second) == 2 * len(first)
    assert not run_stage("metadata", recipe("sw", "yo", **values, max_unigrams=2), tmp_path / "run", QUIET)
    assert run_stage("metadata", recipe("yo", **values), tmp_path / "run", QUIET)
    assert {name.split("/")[1] for name in run_files(tmp_path / "run")} == {"yo"}


def test_bad_dump_fails_its_language_and_second_run_counts_only_that_file(tmp_path: Path):
    good = write_dump(tmp_path / "dumps" / "sw" / "1.xml.bz2", SWAHILI)
    bad = write_dump(tmp_path / "dumps" / "sw" / "2.xml.bz2", SWAHILI)
    write_parquet(tmp_path / "dumps" / "yo" / "a.parquet", ["neno"])
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-9])
    config = recipe("sw", "yo", dumps=str(tmp_path / "dumps"))
    with pytest.raises(StageFailed, match=r"sw: .*2\.xml\.bz2: compressed data ends in the middle"):
        finish("metadata", config, tmp_path / "run", QUIET)
    assert (tmp_path / "run" / "metadata" / "yo.parquet").exists()
    assert not (tmp_path / "run" / "metadata" / "sw.parquet").exists()
    first = run_files(tmp_path / "run")
    bad.write_bytes(whole)
    finish("metadata", config, tmp_path / "run", QUIET)
    second = run_files(tmp_path / "run")
    assert all(second[name] == written for name, written in first.items() if good.name in name)
    assert entries(tmp_path / "run", "sw", "unigram")["mnyama"] == 28


def test_bad_page_view_file_fails_its_dependents(tmp_path: Path):
    write_parquet(tmp_path / "dumps" / "sw" / "a.parquet", ["neno"])
    views = write_views(tmp_path / "dumps" / "pageviews", "sw Paka 3 0")
    (views / "pageviews-x.gz").write_bytes(b"<html>")
    with pytest.raises(StageFailed, match=r"sw: .*pageviews-x\.gz"):
        finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    (views / "pageviews-x.gz").unlink()
    finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    assert list(entries(tmp_path / "run", "sw", "title")) == ["Paka"]


@pytest.mark.parametrize(
    "names",
    [
        ("swwiki-20240101-pages-articles.xml.bz2", "swwiki-20240301-pages-articles.xml.bz2"),
        ("swwiki-20240101-pages-articles.xml.bz2", "swwiki-20240101-pages-articles-multistream.xml.bz2"),
        ("swwiki-20240101-pages-articles.xml.bz2", "swwiki-20240101-pages-articles1.xml-p1p9.bz2"),
    ],
)
def test_several_dumps_of_one_wikipedia_are_refused(names: tuple[str, str], tmp_path: Path):
    """A later fetch leaves the earlier dump where it is."""
    for name in names:
        write_dump(tmp_path / "dumps" / "sw" / name, SWAHILI)
    with pytest.raises(UserError, match="several dumps of the Wikipedia sw, whose articles would count twice"):
        finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    (tmp_path / "dumps" / "sw" / names[0]).unlink()
    finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    assert entries(tmp_path / "run", "sw", "unigram")["mnyama"] == 14


def test_parts_of_dump_and_own_corpus_are_all_counted(tmp_path: Path):
    for number in (1, 2):
        write_dump(tmp_path / f"dumps/sw/swwiki-20240101-pages-articles{number}.xml-p{number}p9.bz2", SWAHILI)
    write_parquet(tmp_path / "dumps/sw/more.parquet", ["mnyama"])
    finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    assert entries(tmp_path / "run", "sw", "unigram")["mnyama"] == 2 * 14 + 1


def test_wikipedia_without_words_fails_its_language(tmp_path: Path):
    write_parquet(tmp_path / "dumps" / "sw" / "a.parquet", ["...", ""])
    with pytest.raises(StageFailed, match="no entry of sw from any source"):
        finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)


def test_full_disk_stops_stage_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def is_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_parquet(tmp_path / "dumps" / "sw" / "a.parquet", ["neno moja"])
    monkeypatch.setattr(ngrams.counter, "write_words", is_full)
    with pytest.raises(OSError, match="No space left"):
        finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    monkeypatch.undo()
    finish("metadata", recipe("sw", dumps=str(tmp_path / "dumps")), tmp_path / "run", QUIET)
    assert list(entries(tmp_path / "run", "sw", "unigram")) == ["moja", "neno"]


def test_config_problems_are_reported_together(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        recipe(
            "sw",
            wikipedia={"xx": "nowhere.xml", "sw": str(tmp_path / "*.xml")},
            pageviews=str(tmp_path / "none"),
            title_top_fraction=2,
            bigram_min_count=0,
        )
    keys = ("wikipedia.xx", "wikipedia.sw", "pageviews", "overrides.title_top_fraction", "overrides.bigram_min_count")
    assert all(f"metadata.{key}" in str(caught.value) for key in keys)
    with pytest.raises(UserError, match=r"metadata\.dumps = .*worldclip fetch metadata"):
        finish("metadata", recipe("sw", dumps=str(tmp_path / "none")), tmp_path / "run", QUIET)
    for folder in ("a", "b"):
        write_parquet(tmp_path / folder / "x.parquet", ["neno"])
    config = recipe("sw", wikipedia={"sw": str(tmp_path / "*" / "x.parquet")})
    with pytest.raises(UserError, match=r"matches x\.parquet in more than one folder"):
        finish("metadata", config, tmp_path / "run", QUIET)


def test_number_of_workers_does_not_change_bytes(tmp_path: Path):
    for wiki, text in (("sw", SWAHILI), ("zh", ["我喜欢北京。"] * 9), ("bo", ["བོད་ཡིག་གི་"] * 9)):
        write_parquet(tmp_path / "dumps" / wiki / "1.parquet", text)
        write_parquet(tmp_path / "dumps" / wiki / "2.parquet", text[::-1])
    config = recipe("sw", "zh", "bo", dumps=str(tmp_path / "dumps"))
    for workers in (1, 2):
        finish("metadata", config, tmp_path / f"run{workers}", LocalExecutor(workers=workers, quiet=True))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f"run{n}" / "metadata").glob("*.parquet")} for n in (1, 2))
    assert one == two
    assert list(one) != []
    assert "ཡིག་གི" in entries(tmp_path / "run1", "bo", "bigram")


# --- real text --------------------------------------------------------------------------------------------------------


def test_real_dump_pieces_give_plausible_lists(shared: Path, tmp_path: Path):
    wiki = shared / "data" / "wiki"
    config = recipe(
        "en",
        "bg",
        wikipedia={code: str(next(wiki.glob(f"{code}wiki*"))) for code in ("en", "bg")},
        unigram_top_fraction=0.1,
        english_rule="as_others",
    )
    report = finish("metadata", config, tmp_path / "run", QUIET)
    english, bulgarian = (list(entries(tmp_path / "run", lang, "unigram")) for lang in ("en", "bg"))
    assert english[:8] == ["the", "of", "and", "in", "to", "a", "is", "The"]
    assert bulgarian[:6] == ["на", "е", "дни", "календар", "и", "от"]
    bigrams = list(entries(tmp_path / "run", "en", "bigram"))
    assert len(bigrams) == -(-4 * len(english) // 10)
    assert bigrams[:4] == GOLDEN_BIGRAMS
    assert {"Hong Kong", "Blade Runner", "Solar System", "Prime Minister", "Super Bowl"} <= set(bigrams)
    assert report["lists"]["en"]["by_source"] == {"unigram": len(english), "bigram": len(bigrams)}


GOLDEN_BIGRAMS = ["Bhai Kanhaiya", "Blade Runner", "Johns Hopkins", "Nineteen Eighty"]

UDHR = {
    "ar": "arb", "am": "amh", "bg": "bul", "bo": "bod", "el": "ell_monotonic", "en": "eng", "hi": "hin", "hy": "hye",
    "ja": "jpn", "ka": "kat", "km": "khm", "ko": "kor", "lo": "lao", "my": "mya", "ru": "rus", "sw": "swh", "ta": "tam",
    "th": "tha", "yo": "yor", "zh": "cmn_hans",
}  # fmt: skip


def udhr_texts(shared: Path) -> dict[str, list[str]]:
    table = pq.read_table(shared / "data" / "udhr" / "udhr.parquet", columns=["code", "text"]).to_pylist()
    texts: dict[str, list[str]] = {}
    for row in table:
        texts.setdefault(row["code"], []).append(row["text"])
    return texts


def test_twenty_languages_in_many_scripts(shared: Path, tmp_path: Path):
    texts = udhr_texts(shared)
    for lang, code in UDHR.items():
        write_parquet(tmp_path / "dumps" / lang / "udhr.parquet", texts[code])
    config = recipe(*UDHR, dumps=str(tmp_path / "dumps"), english_rule="as_others", bigram_min_count=2)
    finish("metadata", config, tmp_path / "run", QUIET)
    top_unigrams = {lang: " ".join(list(entries(tmp_path / "run", lang, "unigram"))[:3]) for lang in UDHR}
    assert top_unigrams == GOLDEN_UNIGRAMS
    joined = {lang: "".join(texts[UDHR[lang]]) for lang in UDHR}
    for lang in ("zh", "ja", "th", "lo", "km", "my", "bo"):
        bigrams = entries(tmp_path / "run", lang, "bigram")
        assert len(bigrams) > 20
        assert all(bigram in joined[lang] for bigram in bigrams), "a bigram joined without a blank occurs in the text"


GOLDEN_UNIGRAMS = {
    "ar": "أو في المادة",
    "am": "ሰው ወይም አንቀጽ",
    "bg": "на и да",
    "bo": "དང པ ཐོབ",
    "el": "και να του",
    "en": "the and of",
    "hi": "के और को",
    "hy": "ու կամ ոք",
    "ja": "の を は",
    "ka": "და მუხლი უფლება",
    "km": "និង សិទ្ធិ ឬ",
    "ko": "모든 또는 제",
    "lo": "ແລະ ຂອງ ສິດ",
    "my": "ကို စေ ခြင်း",
    "ru": "и в или",
    "sw": "ya na haki",
    "ta": "அல்லது உறுப்புரை அவர்கள்",
    "th": "และ การ ที่",
    "yo": "ní è̩tó̩ tí",
    "zh": "的 和 或",
}


def test_memory_does_not_grow_with_parquet_file(tmp_path: Path):
    rng = np.random.default_rng(0)
    schema = pa.schema([("text", pa.large_string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for _ in range(30):  # groups of rows of 0.5 MB that do not compress well
            texts = [rng.bytes(2500).hex() for _ in range(100)]
            writer.write_table(pa.table({"text": pa.array(texts, pa.large_string())}, schema=schema))
    before = pa.total_allocated_bytes()
    held = []
    for batch in read_articles(tmp_path / "a.parquet"):
        num_articles = len(batch)
        del batch
        held.append(pa.total_allocated_bytes() - before)
    assert num_articles == 1000
    assert max(held) < 10e6  # two batches of 5 MB at most; the file has 15
