"""Each source of entries but Wikipedia and the pool; whole lists, by file, folder and address; the rules of entries."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import entry_lists
from entry_lists import QUIET, build, manifest_of, scores, words, write_lines, write_lists, write_wordnet
from killed import modified
from stages import run_stage
from worldclip import metadata
from worldclip.config import load_recipe
from worldclip.contracts.schemas import METADATA
from worldclip.contracts.sources import METADATA_SOURCES
from worldclip.core.artifacts import write_table
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.language import table as languages
from worldclip.language.locale_data import read_own_data
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.lists import read_list, write_whole_list
from worldclip.metadata.plan import SOURCES, build_entries
from worldclip.metadata.source import Inputs
from worldclip.metadata.sources import packages
from worldclip.metadata.sources.wordnet import OMW_LEXICONS, our_code, read_wordnet
from worldclip.plugins.emoji.build import LANGS

# --- tab files of the Open Multilingual Wordnet -----------------------------------------------------------------------


def lemmas(wordnet: Path | str, lang: str) -> list[str]:
    return [entry for entry, _ in read_wordnet(str(wordnet), lang)]


def test_each_name_of_a_source_is_one_in_the_order_of_entries() -> None:
    assert tuple(SOURCES) == METADATA_SOURCES


def test_only_lemma_lines_are_read(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "wn.tab.gz",
        "# Some Wordnet\tarb\thttp://example.org\tCC BY 3.0 ",
        "1-n\tarb:lemma\tأول",
        "1-n\tarb:lemma:root\tجذر",
        "1-n\tarb:lemma:brokenplural\tكتب",
        "1-n\tarb:def\t0\tnot a lemma",
        "1-n\tarb:exe\t0\tnot a lemma either",
        "",
        "2-n\tlemma\tred_apple",
        "3-n\tarb:lemma\t丝不苟+地",
    )
    assert lemmas(path, "ar") == ["أول", "كتب", "red apple", "丝不苟地"]
    pairs = ("def\t0\tits", "lemma\tNew York", "exe\t0\tit", "lemma\tBig Apple")
    lines = [f"1-n\teng:{pair}" for pair in pairs]
    english = write_lines(tmp_path / "wn.tab", "# PWN\teng\turl\twordnet", *lines, "2-n\teng:lemma\tcat")
    assert lemmas(english, "en") == ["new york", "cat"]  # of English the first lemma of each synset, in lower case
    with pytest.raises(BadShard, match="not of als"):
        lemmas(write_lines(tmp_path / "wn.tab", "# Albanet\tals\turl\tCC", "1-n\tals:lemma\tentitet"), "als")
    with pytest.raises(BadShard, match="no lemma line"):
        lemmas(write_lines(tmp_path / "wn.tab", "# X\tdan\turl\tfree", "1-n\tdan:def\t0\tno lemma here"), "da")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadShard, match="cannot be read"):
        lemmas(path, "ar")


def test_lexicons_are_those_of_the_paper() -> None:
    wn = pytest.importorskip("wn")
    assert len(OMW_LEXICONS) == 31
    assert all(wn.config.get_project_info(f"{name}:2.0")["resource_urls"] for name in OMW_LEXICONS.values())
    theirs = ("als", "sq", "cmn-Hans", "arb", "nb", "nno", "zsm", "pt-BR", "pes", "id", "swh", "art-x-made")
    ours = ["sq", "sq", "zh", "ar", "no", "nn", "ms", "pt", "fa", "id", "sw", None]
    assert [our_code(code) for code in theirs] == ours


# --- lexicons that wn has installed -----------------------------------------------------------------------------------


def lexicon(lang: str, *synsets: list[str], name: str = "made-up") -> str:
    """Return WN-LMF of a lexicon whose synsets have these lemmas, each lemma once, in the order in which they come."""
    senses: dict[str, list[int]] = {}
    for synset, its_lemmas in enumerate(synsets):
        for lemma in its_lemmas:
            senses.setdefault(lemma, []).append(synset)
    number = {lemma: n for n, lemma in enumerate(senses)}
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">',
        '<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">',
        f'<Lexicon id="{name}" label="Made up" language="{lang}" email="a@b.c" license="CC BY 4.0" version="1.0"',
        'url="http://example.org">',
    ]
    for lemma, its in senses.items():
        of = "".join(f'<Sense id="s-{number[lemma]}-{synset}" synset="{name}-{synset}"/>' for synset in its)
        entry = f'<Lemma writtenForm="{lemma}" partOfSpeech="n"/>{of}'
        lines.append(f'<LexicalEntry id="{name}-e{number[lemma]}">{entry}</LexicalEntry>')
    for synset, its_lemmas in enumerate(synsets):
        members = " ".join(f"s-{number[lemma]}-{synset}" for lemma in its_lemmas)
        lines.append(f'<Synset id="{name}-{synset}" ili="" partOfSpeech="n" members="{members}"></Synset>')
    return "\n".join([*lines, "</Lexicon></LexicalResource>"])


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Install a file in a database of wn's of our own; return the name of its lexicon."""
    wn = pytest.importorskip("wn")
    monkeypatch.setattr(wn.config, "_data_directory", tmp_path / "wn_data")
    monkeypatch.setattr(wn.config, "_dbpath", tmp_path / "wn_data" / "wn.db")

    def install(text: str) -> str:
        wn.add(write_lines(tmp_path / "to_install.xml", text), progress_handler=None)
        return "made-up:1.0"

    return install


def test_installed_lexicons_give_what_tab_files_give(install: Callable[[str], str]) -> None:
    install(lexicon("fr", ["chat", "matou"], ["pomme_de_terre"], ["matou", "a+b"]))
    assert lemmas("made-up:1.0", "fr") == ["chat", "matou", "pomme de terre", "ab"]
    with pytest.raises(BadShard, match="WordNet of fr"):
        lemmas("made-up:1.0", "de")
    install(lexicon("en", ["New_York", "Big Apple"], ["cat", "true cat"], ["Big Apple", "apple"], name="english"))
    assert lemmas("english:1.0", "en") == ["new york", "cat", "big apple"]


def test_several_wordnets_are_joined_in_order_with_licences_in_manifest(
    tmp_path: Path, install: Callable[[str], str]
) -> None:
    tab = write_wordnet(tmp_path / "wn-data-dan.tab", "dan", "hund", "ko")
    install(lexicon("da", ["hest", "ko"]))
    wordnets = {"da": [tab, "made-up:1.0"]}
    build(entry_lists.recipe(["da"], sources=["number", "wordnet"], wordnets=wordnets), tmp_path / "run")
    assert words(tmp_path / "run", "da")[100:] == ["hund", "ko", "hest"]
    file, lexicon_record = manifest_of(tmp_path / "run")["sources"]["da"]
    assert (file["path"], len(file["sha256"]), file["licence"]) == (
        "wn-data-dan.tab", 64, "stated in the file's first line"
    )  # fmt: skip
    assert (lexicon_record["lexicon"], lexicon_record["licence"]) == ("made-up:1.0", "CC BY 4.0")
    with pytest.raises(UserError, match=r"neither a file nor an installed lexicon \(installed: made-up:1\.0\)"):
        build(entry_lists.recipe(["da"], sources=["wordnet"], wordnets={"da": "omw-da:1.4"}), tmp_path / "run")


def test_one_download_of_wn_gives_each_language_the_papers_lexicon(
    tmp_path: Path, install: Callable[[str], str]
) -> None:
    """`python -m wn download omw:2.0` installs several lexicons of English and of Italian."""
    lemmas_of = {("omw-fr", "fr"): "chat", ("omw-zsm", "zsm"): "kucing", ("omw-it", "it"): "gatto",
                 ("omw-iwn", "it"): "micio", ("omw-en", "en"): "cat", ("omw-en15", "en"): "Moggy",
                 ("own", "it"): "micione"}  # fmt: skip
    for (name, lang), lemma in lemmas_of.items():
        install(lexicon(lang, [lemma], name=name))
    config = {"sources": ["wordnet"], "installed_wordnets": True}
    config["wordnets"] = {"sv": write_wordnet(tmp_path / "sv.tab", "swe", "katt")}
    lists = {"en": ["cat"], "fr": ["chat"], "it": ["gatto"], "ms": ["kucing"], "sv": ["katt"]}
    build(entry_lists.recipe([*lists], **config), tmp_path / "run")
    assert {lang: words(tmp_path / "run", lang) for lang in lists} == lists


# --- Python packages --------------------------------------------------------------------------------------------------

BABEL = "2.19."  # whose locales the column `cldr` lists, those with 100 names; a later one can name more
TITLES = (
    "fr paris Paris, en it's It's, fr jean-paul Jean-Paul, tr istanbul İstanbul, tr ırak Irak, en istanbul Istanbul, "
    "nl ijsland IJsland, hr ǆep ǅep, ka თბილისი თბილისი, zh 猫 猫"
)


def read(source: str, lang: str, **values: Any) -> dict[str, float | None]:
    """Return the entries of a source for a language with their scores."""
    config = MetadataConfig(sources=(source,), **values)
    table = build_entries(Inputs(lang=lang, config=config)).table()
    return dict(zip(table["entry"].to_pylist(), table["score"].to_pylist(), strict=True))


def test_frequent_words_come_as_is_then_in_title_case_without_merged_numbers() -> None:
    for case in TITLES.split(", "):
        lang, word, expected = case.split()
        assert packages.title_case(word, lang) == expected
    pytest.importorskip("wordfreq")
    frequent = read("wordfreq", "en", wordfreq_top=20_000)
    assert [*frequent][:6] == ["the", "The", "to", "To", "and", "And"]
    assert frequent["the"] == frequent["The"] > frequent["to"] > 0
    assert not any(sum(char.isdigit() for char in word) > 1 for word in frequent)  # 0000 stands for all years
    assert list(read("wordfreq", "en", wordfreq_top=2)) == ["the", "The", "to", "To"]
    assert read("wordfreq", "yo") == {}


def test_column_cldr_has_the_languages_that_babel_names_things_in() -> None:
    babel = pytest.importorskip("babel")
    known = languages.all_languages()
    assert not [lang.code for lang in known if lang.cldr and len(read("cldr", lang.code)) < 100]
    if not babel.__version__.startswith(BABEL):
        pytest.skip(f"babel {babel.__version__} is installed; the column is of {BABEL}x")
    locales = [lang.code for lang in known if not lang.cldr and babel.localedata.exists(lang.code)]
    own = {code: {*packages.names_of(read_own_data(code, extra="metadata"))} for code in locales}
    assert not [code for code, names in own.items() if len(names) >= 200]


def test_names_of_cldr_have_no_remarks_and_no_inherited_language() -> None:
    pytest.importorskip("babel")
    names = read("cldr", "sw")
    assert {"Tanzania", "Myanmar", "Kiswahili", "Jiji la Mexico", "Januari", "vijiko vikubwa"} < {*names}
    assert not [name for lang in ("sw", "zh") for name in read("cldr", lang) if {"(", "（"} & {*name}]
    assert "January" not in names
    assert {"Србија", "Srbija"} < {*read("cldr", "sr")}
    kea = languages.AddedLanguage(name="Kabuverdianu", script="Latn", cldr=("kea_Zzzz",)).row("kea")
    config = MetadataConfig(sources=("cldr",))
    with pytest.raises(BadShard, match="no locale kea_Zzzz; upgrade babel"):
        build_entries(Inputs(lang="kea", config=config, languages=languages.Languages((kea,))))


def test_emoji_are_named_without_skin_tones() -> None:
    pytest.importorskip("emoji")
    assert all(len(read("emoji", lang)) > 1500 for lang in LANGS)
    assert "manzana roja" in read("emoji", "es")
    names = read("emoji", "en")
    assert "red apple" in names
    assert not [name for name in names if "skin tone" in name or "_" in name]


def test_starter_builds_a_list_of_every_language_that_a_package_has(tmp_path: Path) -> None:
    starter = Path(__file__).parents[2] / "recipes/starter.toml"
    known = languages.all_languages()
    codes = load_recipe(starter).languages.codes
    assert codes == tuple(language.code for language in known if language.wordfreq or language.cldr)
    assert (sum(language.wordfreq is not None for language in known), len(codes)) == (44, 169)
    for package in ("wordfreq", "babel", "emoji"):
        pytest.importorskip(package)
    some = 'languages.codes=["hi", "sw", "zh"]'
    report = build(load_recipe(starter, ["metadata.wordfreq_top=300", some]), tmp_path / "run")
    by_source = {lang: row["by_source"] for lang, row in report["lists"].items()}
    assert all(by_source[lang]["wordfreq"] > 250 for lang in ("hi", "zh"))
    assert all(counts["cldr"] > 700 for counts in by_source.values())
    assert [lang for lang, counts in by_source.items() if counts.get("emoji", 0) > 1000] == ["zh"]
    assert {"红苹果", "坦桑尼亚", "坦尚尼亞", "的"} < {*words(tmp_path / "run", "zh")}
    records = {record["source"]: record for record in manifest_of(tmp_path / "run")["sources"]["zh"]}
    assert (records["cldr"]["package"], records["wordfreq"]["licence"]) == ("babel", "CC BY-SA 4.0")


# --- the rules of entries ---------------------------------------------------------------------------------------------


def test_rules_drop_and_count_candidates(tmp_path: Path) -> None:
    built = EntryList()
    candidates = ["cat", " cat ", "", "...", "—！", "x" * 257, "語" * 256, "\ud800", "$", "c'est", "🐈", "ก็"]
    built.add("list", ((entry, None) for entry in candidates))
    assert list(built.entries) == ["cat", "語" * 256, "c'est", "🐈", "ก็"]
    dropped = {"empty": 1, "punctuation": 3, "too_long": 1, "not_text": 1, "duplicate": 1}
    assert built.rules["list"] == {"in": 12, **dropped, "kept": 5}
    path = tmp_path / "list.txt"  # lines may hold scores, and end at line feeds only
    path.write_bytes("\ufeffmbwa\t12.5\npaka\n\na\u2028b\r\nc\x0bd\t3\r\n".encode())
    assert list(read_list(str(path))) == [("mbwa", 12.5), ("paka", None), ("a\u2028b", None), ("c\x0bd", 3.0)]


# --- lines and JSON ---------------------------------------------------------------------------------------------------


BROKEN_LISTS = [
    ("x.json", b'{"a": 1}', "not a JSON array"),
    ("x.json", b"[1]", "not a JSON array of strings"),
    ("x.json", b"[", "invalid JSON"),
    ("x.json", b"[" * 100_000, "invalid JSON"),
    ("x.txt", b"good\t1\nbad\tmany\n", "line 2: score 'many' after the tab is not a number"),
    ("x.txt", b"bad\tnan\n", "line 1: score 'nan' after the tab is not a number"),
    ("x.txt", b"good\n\xff\xfe\n", "line 2: not UTF-8"),
    ("x.txt.gz", b"<html>", "cannot be read"),
]


def test_broken_list_is_bad_shard_with_file_and_line(tmp_path: Path) -> None:
    for name, data, message in BROKEN_LISTS:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadShard, match=message) as caught:
            list(read_list(str(tmp_path / name)))
        assert str(tmp_path / name) in str(caught.value)


def test_a_list_is_all_that_its_language_has_and_sources_build_the_others(tmp_path: Path) -> None:
    """The English list of version 1 is a JSON array."""
    published = ["0", "dog", "New York", "Dog", "na\u00efve", " C++ ", "dog", "!!!", "x" * 300]
    write_lines(tmp_path / "metadata.json.gz", json.dumps(published))
    config = {"sources": ["number", "wordnet"], "lists": {"en": str(tmp_path / "metadata.json.gz")}}
    config["wordnets"] = {"de": entry_lists.write_wordnet(tmp_path / "de.tab", "deu", "Hund")}
    report = build(entry_lists.recipe(["de", "en"], **config), tmp_path / "run")
    assert words(tmp_path / "run", "en") == [*published[:5], "C++"]
    assert report["lists"]["en"]["by_source"] == {"list": 6}
    assert words(tmp_path / "run", "de")[98:] == ["98", "99", "Hund"]
    (record,) = manifest_of(tmp_path / "run")["sources"]["en"]
    assert (record["source"], record["path"], record["licence"]) == ("list", "metadata.json.gz", "not stated")
    assert len(record["sha256"]) == 64


# --- lists of a run ---------------------------------------------------------------------------------------------------


def of_a_run(folder: Path, **lists: list[str]) -> Path:
    """Return RUN/metadata with these lists."""
    build(entry_lists.recipe(sorted(lists), lists=write_lists(folder, **lists)), folder / "run")
    return folder / "run/metadata"


def test_list_of_a_run_keeps_sources_and_scores(tmp_path: Path) -> None:
    folder = of_a_run(tmp_path, sw=["simba\t3", "caf\u00e9", "cafe\u0301"])
    table = pq.read_table(folder / "sw.parquet").set_column(2, "source", pa.array(["title", "list", "list"]))
    write_table(tmp_path / "sw.parquet", table, METADATA)
    report = build(entry_lists.recipe(["sw"], lists={"sw": str(tmp_path / "sw.parquet")}), tmp_path / "mine")
    assert scores(tmp_path / "mine", "sw") == {"simba": 3.0, "caf\u00e9": None, "cafe\u0301": None}
    assert report["lists"]["sw"]["by_source"] == {"title": 1, "list": 2}
    assert report["lists"]["sw"]["dead"] == {"unicode": 1}
    assert metadata.load_matcher(tmp_path / "mine", "sw", "unicode").match("Simba, simba!").tolist() == [0]


def test_lists_at_an_address_are_read_and_a_changed_one_is_rebuilt_alone(tmp_path: Path) -> None:
    store, run_dir = fsspec.filesystem("memory"), tmp_path / "mine"
    for path in of_a_run(tmp_path, sw=["simba"], th=["แมว"]).glob("*.parquet"):
        store.pipe(f"/lists/{path.name}", path.read_bytes())
    store.pipe("/lists/yo.txt", "kìnnìún\n".encode())
    named = {"sw": "memory://lists/sw.parquet", "yo": "memory://lists/yo.txt"}
    build(entry_lists.recipe(["sw", "yo"], lists=named), tmp_path / "named")
    assert words(tmp_path / "named", "yo") == ["kìnnìún"]
    loaded = entry_lists.recipe([], lists="memory://lists")
    assert run_stage("metadata", loaded, run_dir, QUIET)
    assert not run_stage("metadata", loaded, run_dir, QUIET)
    before = modified(run_dir / "metadata", "*.parquet")
    store.pipe("/lists/sw.parquet", (of_a_run(tmp_path / "new", sw=["simba", "paka"]) / "sw.parquet").read_bytes())
    assert run_stage("metadata", loaded, run_dir, QUIET)
    after = modified(run_dir / "metadata", "*.parquet")
    assert [path.stem for path in after if after[path] == before[path]] == ["th"]
    assert words(run_dir, "sw") == ["simba", "paka"]


def test_mistakes_in_lists_are_named(tmp_path: Path) -> None:
    folder = of_a_run(tmp_path, sw=["simba"])
    kea = {"name": "Kabuverdianu", "script": "Latn"}
    shutil.copy(folder / "sw.parquet", folder / "kea.parquet")
    build(entry_lists.recipe(["sw"], lists=str(folder)), tmp_path / "mine")  # kea is not asked for
    build(entry_lists.recipe([], {"languages": {"add": {"kea": kea}}}, lists=str(folder)), tmp_path / "mine")
    assert sorted(manifest_of(tmp_path / "mine")["counts"]) == ["kea", "sw"]
    without_list = {"languages": {"add": {"kea": kea, "xx": {**kea, "name": "Other"}}}}
    with pytest.raises(UserError, match="no source has words of xx"):
        build(entry_lists.recipe([], without_list, lists=str(folder)), tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    for config, message in (
        ({"lists": str(folder)}, r"unknown languages kea; add them \(\[languages.add.kea\]"),
        ({"lists": str(tmp_path / "empty")}, "holds no list"),
        ({"lists": str(tmp_path / "none")}, "no such folder"),
        ({"lists": "nowhere://lists"}, "cannot be listed"),
        ({"lists": {"sw": "memory://lists/none.txt"}}, "sw: memory://lists/none.txt: cannot be read"),
    ):
        codes = ["sw"] if isinstance(config["lists"], dict) else []
        with pytest.raises((UserError, StageFailed), match=message):
            build(entry_lists.recipe(codes, **config), tmp_path / "mine")


FORGED: tuple[tuple[str, Any], ...] = (
    ("entry", pa.array(["a", "a", "b"])),
    ("entry", pa.array(["a", None, "b"])),
    ("entry_id", pa.array([0, 2, 1], pa.int32())),
    ("entry_id", pa.array([0, 1, 2], pa.int64())),
    ("source", pa.array(["list", None, "list"]).dictionary_encode()),
    ("entry", pc.cast(pa.array([b"a", b"\xff", b"b"]), pa.string(), safe=False)),
)


def test_forged_list_of_a_run_is_refused_and_leaves_no_list(tmp_path: Path) -> None:
    table = pq.read_table(of_a_run(tmp_path, sw=["a", "b", "c"]) / "sw.parquet")
    path = tmp_path / "forged.parquet"
    for name, column in FORGED:
        changed = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(changed.replace_schema_metadata(METADATA.metadata), path)
        with pytest.raises(BadShard, match=r"forged\.parquet: not a (readable )?list of a run"):
            write_whole_list(str(path), tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()


def test_damaged_list_of_a_run_is_refused_or_whole(tmp_path: Path) -> None:
    whole = (of_a_run(tmp_path, sw=[f"word{n}\t{n}" for n in range(50)]) / "sw.parquet").read_bytes()
    draw = random.Random(0)
    num_refused = 0
    for _ in range(300):
        content = bytearray(whole)
        at = draw.randrange(len(content))
        content[at] = draw.randrange(256)
        (tmp_path / "x.parquet").write_bytes(content[: draw.choice([len(content), at])])
        try:
            assert len(write_whole_list(str(tmp_path / "x.parquet"), tmp_path / "out.parquet")[0]) == 50
        except BadShard:
            num_refused += 1
    assert num_refused > 200
