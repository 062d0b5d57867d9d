"""Each source of entries but Wikipedia and the pool: WordNets, Python packages, sources of other packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import entry_lists
from entry_lists import build, manifest_of, words, write_lines, write_wordnet
from served import Server
from served import server as server  # the fixture
from tars import tar_of
from worldclip.config import load_recipe
from worldclip.core.errors import BadShard, UserError
from worldclip.language import table as languages
from worldclip.language.config import AddedLanguage
from worldclip.language.locale_data import read_own_data
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.source import Inputs, build_entries
from worldclip.metadata.sources import packages
from worldclip.metadata.sources.wordnet import OMW_LEXICONS, our_code, read_wordnet
from worldclip.plugins.emoji.build import LANGS

# --- tab files of the Open Multilingual Wordnet -----------------------------------------------------------------------


def lemmas(wordnet: Path | str, lang: str) -> list[str]:
    return [entry for entry, _ in read_wordnet(str(wordnet), lang)]


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


def test_english_takes_first_lemma_of_each_synset_lower_cased(tmp_path: Path) -> None:
    lines = ("# PWN\teng\turl\twordnet", "1-n\teng:lemma\tNew York", "1-n\teng:lemma\tBig Apple", "2-n\teng:lemma\tcat")
    assert lemmas(write_lines(tmp_path / "wn.tab", *lines), "en") == ["new york", "cat"]


def test_wordnet_of_another_language_or_without_lemmas_is_bad_shard(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "wn-data-als.tab", "# Albanet\tals\turl\tCC BY 3.0", "1-n\tals:lemma\tentitet")
    assert lemmas(path, "sq") == ["entitet"]
    with pytest.raises(BadShard, match=r"WordNet of sq \('als'\), not of als"):
        lemmas(path, "als")
    path = write_lines(tmp_path / "wn.tab", "# X\tdan\turl\tfree", "1-n\tdan:def\t0\tno lemma here")
    with pytest.raises(BadShard, match="no lemma line"):
        lemmas(path, "da")
    path = write_lines(tmp_path / "wn.tab.gz", *(f"{i}-n\tdan:lemma\tord{i}" for i in range(100)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadShard, match="cannot be read"):
        lemmas(path, "da")


LEMMA_LINES = {"als": 9599, "arb": 37335 + 2948, "dan": 5859, "cmn": 79797, "por": 74012, "ell": 24106, "nob": 5586}


@pytest.mark.parametrize("wordnet_lang", LEMMA_LINES)
def test_real_wordnets_give_every_lemma_line(wordnet_lang: str, shared: Path) -> None:
    path = shared / f"data/omw/wn-data-{wordnet_lang}.tab.gz"
    entries = lemmas(path, languages.from_wordnet(wordnet_lang))
    assert len(entries) == LEMMA_LINES[wordnet_lang]
    assert not any("_" in lemma or "+" in lemma for lemma in entries)


def test_real_english_wordnet_has_one_lemma_per_synset(shared: Path) -> None:
    entries = lemmas(shared / "data/omw/rebuilt/wn-data-eng.tab.gz", "en")
    assert len(entries) == 117_659
    assert entries[:3] == ["entity", "physical entity", "abstraction"]
    assert len(set(entries)) == 86_571  # version 1 of the recipe counts 86,654 in its own copy


# --- lexicons that wn has installed -----------------------------------------------------------------------------------

LMF = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">\n'
    '<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">{}</LexicalResource>\n'
)


def lexicon(lang: str, *synsets: list[str], name: str = "made-up") -> str:
    """Return WN-LMF of a lexicon whose synsets have these lemmas, each lemma once, in the order in which they come."""
    senses: dict[str, list[int]] = {}
    for synset, its_lemmas in enumerate(synsets):
        for lemma in its_lemmas:
            senses.setdefault(lemma, []).append(synset)
    number = {lemma: n for n, lemma in enumerate(senses)}
    lines = [
        f'<Lexicon id="{name}" label="Made up" language="{lang}" email="a@b.c" license="CC BY 4.0" version="1.0"'
        ' url="http://example.org">'
    ]
    for lemma, its in senses.items():
        of = "".join(f'<Sense id="s-{number[lemma]}-{synset}" synset="{name}-{synset}"/>' for synset in its)
        entry = f'<Lemma writtenForm="{lemma}" partOfSpeech="n"/>{of}'
        lines.append(f'<LexicalEntry id="{name}-e{number[lemma]}">{entry}</LexicalEntry>')
    for synset, its_lemmas in enumerate(synsets):
        members = " ".join(f"s-{number[lemma]}-{synset}" for lemma in its_lemmas)
        lines.append(f'<Synset id="{name}-{synset}" ili="" partOfSpeech="n" members="{members}"></Synset>')
    return LMF.format("\n".join([*lines, "</Lexicon>"]))


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
    server: Server, tmp_path: Path, install: Callable[[str], str]
) -> None:
    """The archive of `python -m wn download omw:2.0` has several lexicons of English and of Italian."""
    import wn

    lemmas_of = {("omw-fr", "fr"): "chat", ("omw-zsm", "zsm"): "kucing", ("omw-it", "it"): "gatto",
                 ("omw-iwn", "it"): "micio", ("omw-en", "en"): "cat", ("omw-en15", "en"): "Moggy"}  # fmt: skip
    members = {
        f"omw-2.0/{name}/{name}.xml": lexicon(lang, [lemma], name=name).encode()
        for (name, lang), lemma in lemmas_of.items()
    }
    server.files["/omw-2.0.tar.xz"] = tar_of(members, "w:xz")
    wn.download(f"{server.url}/omw-2.0.tar.xz", progress_handler=None)
    install(lexicon("it", ["micione"], name="own"))  # is read only where the recipe names it
    config = {"sources": ["wordnet"], "installed_wordnets": True}
    config["wordnets"] = {"sv": write_wordnet(tmp_path / "sv.tab", "swe", "katt")}
    lists = {"en": ["cat"], "fr": ["chat"], "it": ["gatto"], "ms": ["kucing"], "sv": ["katt"]}
    build(entry_lists.recipe([*lists], **config), tmp_path / "run")
    assert {lang: words(tmp_path / "run", lang) for lang in lists} == lists


def test_lexicons_of_the_paper_are_in_the_index_of_wn() -> None:
    wn = pytest.importorskip("wn")
    assert len(OMW_LEXICONS) == 31
    archives = [wn.config.get_project_info(f"{name}:2.0")["resource_urls"][0] for name in OMW_LEXICONS.values()]
    assert [url.rpartition("/")[2] for url in archives] == [f"{name}-2.0.tar.xz" for name in OMW_LEXICONS.values()]
    theirs = ("als", "sq", "cmn-Hans", "arb", "nb", "nno", "zsm", "pt-BR", "pes", "id", "swh", "art-x-made")
    ours = ["sq", "sq", "zh", "ar", "no", "nn", "ms", "pt", "fa", "id", "sw", None]
    assert [our_code(code) for code in theirs] == ours


# --- Python packages --------------------------------------------------------------------------------------------------

MIN_NAMES = 100  # of a language in the column `cldr`
BABEL = "2.19."  # whose locales the column `cldr` lists; a later one can name things in further languages
STARTER = Path(__file__).parents[2] / "recipes" / "starter.toml"
TITLES = (
    "fr paris Paris, en it's It's, fr jean-paul Jean-Paul, tr istanbul İstanbul, tr ırak Irak, en istanbul Istanbul, "
    "nl ijsland IJsland, hr ǆep ǅep, ka თბილისი თბილისი, zh 猫 猫"
)


def read(source: str, lang: str, **values: Any) -> dict[str, float | None]:
    """Return the entries of a source for a language with their scores."""
    config = MetadataConfig(sources=(source,), **values)
    table = build_entries(Inputs(lang=lang, config=config)).table()
    return dict(zip(table["entry"].to_pylist(), table["score"].to_pylist(), strict=True))


@pytest.mark.parametrize("case", TITLES.split(", "))
def test_title_case(case: str) -> None:
    lang, word, expected = case.split()
    assert packages.title_case(word, lang) == expected


def test_frequent_words_come_as_is_then_in_title_case_without_merged_numbers() -> None:
    pytest.importorskip("wordfreq")
    frequent = read("wordfreq", "en", wordfreq_top=20_000)
    assert [*frequent][:6] == ["the", "The", "to", "To", "and", "And"]
    assert frequent["the"] == frequent["The"] > frequent["to"] > 0
    assert not any(sum(char.isdigit() for char in word) > 1 for word in frequent)  # 0000 stands for all years
    assert read("wordfreq", "yo") == {}


def test_column_cldr_has_the_languages_that_babel_names_things_in() -> None:
    babel = pytest.importorskip("babel")
    known = languages.all_languages()
    assert not [lang.code for lang in known if lang.cldr and len(read("cldr", lang.code)) < MIN_NAMES]
    if not babel.__version__.startswith(BABEL):
        pytest.skip(f"babel {babel.__version__} is installed; the column is of {BABEL}x")
    locales = [lang.code for lang in known if not lang.cldr and babel.localedata.exists(lang.code)]
    own = {code: {*packages.names_of(read_own_data(code, extra="metadata"))} for code in locales}
    assert not [code for code, names in own.items() if len(names) >= 2 * MIN_NAMES]


def test_names_of_cldr_have_no_remarks_and_no_inherited_language() -> None:
    pytest.importorskip("babel")
    names = read("cldr", "sw")
    assert {"Tanzania", "Myanmar", "Kiswahili", "Jiji la Mexico", "Januari", "vijiko vikubwa"} < {*names}
    assert not [name for name in names if "(" in name]
    assert "January" not in names
    assert {"Србија", "Srbija"} < {*read("cldr", "sr")}
    kea = AddedLanguage(name="Kabuverdianu", script="Latn", cldr=("kea_Zzzz",)).row("kea")
    inputs = Inputs(
        lang="kea", config=MetadataConfig(sources=("cldr",)), languages=languages.Languages((kea,))
    )  # fmt: skip
    with pytest.raises(BadShard, match="no locale kea_Zzzz; upgrade babel"):
        build_entries(inputs)


def test_emoji_are_named_without_skin_tones_in_every_language_of_the_package() -> None:
    pytest.importorskip("emoji")
    for lang in LANGS:
        names = read("emoji", lang)
        assert len(names) > 1500
        assert not [name for name in names if ":" in name.strip(":") and "_" in name]
    assert "red apple" in read("emoji", "en")
    assert "manzana roja" in read("emoji", "es")
    assert not [name for name in read("emoji", "en") if "skin tone" in name]


def test_starter_builds_a_list_of_every_language_that_a_package_has(tmp_path: Path) -> None:
    known = languages.all_languages()
    codes = load_recipe(STARTER).languages.codes
    assert codes == tuple(language.code for language in known if language.wordfreq or language.cldr)
    assert (sum(language.wordfreq is not None for language in known), len(codes)) == (44, 169)
    for package in ("wordfreq", "babel", "emoji"):
        pytest.importorskip(package)
    some = 'languages.codes=["en", "hi", "sw", "tl", "zh"]'
    report = build(load_recipe(STARTER, ["metadata.wordfreq_top=300", some]), tmp_path / "run")
    by_source = {lang: row["by_source"] for lang, row in report["lists"].items()}
    assert all(by_source[lang]["wordfreq"] > 250 for lang in ("en", "hi", "tl", "zh"))
    assert all(counts["cldr"] > 700 for counts in by_source.values())
    assert [lang for lang, counts in by_source.items() if counts.get("emoji", 0) > 1000] == ["en", "zh"]
    entries = {lang: words(tmp_path / "run", lang) for lang in report["lists"]}
    assert entries["en"][100:104] == ["the", "The", "to", "To"]
    assert (entries["hi"][100], entries["zh"][100]) == ("के", "的")
    assert {"Visiwa vya Virgin, Marekani", "Myanmar", "Jumapili"} < {*entries["sw"]}
    assert {"红苹果", "坦桑尼亚", "坦尚尼亞"} < {*entries["zh"]}
    records = {record["source"]: record for record in manifest_of(tmp_path / "run")["sources"]["en"]}
    assert records["cldr"]["package"] == "babel"
    assert records["wordfreq"]["licence"] == "CC BY-SA 4.0"


# --- every real wordnet -----------------------------------------------------------------------------------------------

# Entries of each real wordnet; the distinct lemmas of data/README.md less pure punctuation and seams.
# fmt: off
WORDNET_ENTRIES = {
    "iwn/ita": 19_221, "rebuilt/eng": 86_571, "wikt/fin": 23_437, "wikt/jpn": 16_783, "wikt/ron": 9_327,
    "wikt/spa": 19_779, "wikt/tha": 2_965, "omw/als": 5_988, "omw/arb": 19_097, "omw/bul": 6_720,
    "omw/cat": 67_498, "omw/cmn": 61_100, "omw/dan": 4_468, "omw/ell": 18_220, "omw/eus": 26_237,
    "omw/fas": 17_560, "omw/fra": 55_344, "omw/glg": 39_988, "omw/heb": 5_325, "omw/hrv": 29_001,
    "omw/ind": 36_954, "omw/isl": 11_422, "omw/ita": 41_855, "omw/lit": 11_395, "omw/nld": 43_077,
    "omw/nno": 3_387, "omw/nob": 4_186, "omw/pol": 45_384, "omw/por": 54_070, "omw/qcn": 3_206,
    "omw/slk": 29_150, "omw/slv": 40_229, "omw/swe": 5_824, "omw/zsm": 33_932,
}
# fmt: on


@pytest.mark.slow
def test_every_real_wordnet_gives_a_list(shared: Path) -> None:
    kept = {}
    for path in sorted((shared / "data/omw").rglob("*.tab.gz")):
        theirs = path.name.removesuffix(".tab.gz").rpartition("-")[2]
        lang = languages.from_wordnet(theirs)
        kept[f"{path.parent.name}/{theirs}"] = len(read("wordnet", lang, wordnets={lang: str(path)}))
    assert kept == WORDNET_ENTRIES
