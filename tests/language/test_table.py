"""The table of languages, its merges frozen; added languages; which characters part words, on every Python alike."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import worldclip
from killed import modified
from stages import QUIET, finish, why_run
from tars import sample, write_tar
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, require_manifest
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.kernels.unicode_table import CATEGORIES, load_categories
from worldclip.language import characters, scripts
from worldclip.language import segment as tokens
from worldclip.language import table as languages
from worldclip.language.config import LanguagesConfig, languages_of
from worldclip.language.identify import read_labels
from worldclip.language.profiles import normalise
from worldclip.language.segment import ALONE, BARRIER, JOINT, TSHEGS, WORD, scheme_of
from worldclip.language.table import AddedLanguage, Languages
from worldclip.metadata.entry_list import is_punctuation
from worldclip.metadata.sources.packages import title_case
from worldclip.tools.inspect_run import inspect_entry

ALL = languages.all_languages()
MERGED_WIKIPEDIAS = {"zh": ("zh", "zh_classical", "zh_yue"), "be": ("be", "be_tarask"), "nds": ("nds", "nds_nl")}


def frozen(*lines: str) -> str:
    return hashlib.sha256("; ".join(lines).encode()).hexdigest()[:16]


def test_every_label_of_the_shipped_model_is_in_one_row_and_three_are_renamed(shared: Path) -> None:
    labels = read_labels("lid176")
    assert sorted(labels) == sorted((shared / "facts/lid176_labels.txt").read_text().split())
    assert sorted(label for row in ALL for label in row.lid176) == sorted(labels)
    renamed = {label: code for label in labels if (code := languages.from_lid(label)) != label}
    assert renamed == {"yue": "zh", "cbk": "cbk_zam", "lrc": "other"}


def test_lists_of_all_labels_are_frozen() -> None:
    """By the ISO 639-3 codes of each list: a label of GlotLID or OpenLID is one of these with its script."""
    assert frozen(*(f"{row.code}: {' '.join(row.iso639_3)}" for row in ALL)) == "9b8e2a57b37433b7"
    assert frozen(*languages.wikipedias("other")) == "70f55e0817e4cbea"
    assert languages.wikipedias("other", "glotlid") == ("map_bms", "roa_tara")


def test_every_glotlid_code_maps_to_one_list_in_any_script(shared: Path) -> None:
    codes = json.loads((shared / "facts/glotlid_languages.json").read_text())
    rows = [label for row in ALL for label in row.iso639_3]
    assert len(rows) == len(set(rows))
    assert {label.partition("_")[0] for label in rows} <= set(codes)
    ours = {iso: row.code for row in ALL for iso in row.iso639_3}
    for script in ("Latn", "Cyrl", "Arab", "Zzzz"):
        found = {iso: languages.from_lid(f"__label__{iso}_{script}", "glotlid") for iso in codes}
        assert found == {iso: ours.get(iso, languages.OTHER) for iso in codes}
    assert (len(codes), sum(iso in ours for iso in codes)) == (8305, 555)


def test_every_wikipedia_makes_exactly_one_list(shared: Path) -> None:
    codes = (shared / "facts/wikipedia_codes.txt").read_text().split()
    assert sorted(wiki for row in ALL for wiki in row.wikipedia) == sorted(codes)
    assert len(codes) == 330
    assert {row.code: row.wikipedia for row in ALL if row.wikipedia != (row.code,) and row.code != "other"} == (
        MERGED_WIKIPEDIAS
    )
    simple = languages.get("simple")
    assert (simple.lid176, simple.iso639_3) == ((), ())
    assert not any("simple" in languages.wikipedias("other", scheme) for scheme in ("lid176", "glotlid"))


def test_known_errors_of_the_reference_are_corrected(shared: Path) -> None:
    lines = (shared / "facts/omw_to_wikipedia.csv").read_text().splitlines()[1:]
    theirs = {line.split(",")[0]: line.split(",")[1] for line in lines}
    assert {code: languages.from_wordnet(code) for code in theirs} == theirs
    assert languages.from_wordnet("als") == "sq"
    assert languages.get("zh_min_nan").script == "Latn"
    by_lid176 = {"als": "als", "__label__wuu": "wuu", "xx": "other", "": "other"}  # lid.176's als is Alemannic
    assert {label: languages.from_lid(label) for label in by_lid176} == by_lid176
    by_iso = {
        "gsw_Latn": "als", "als_Latn": "sq", "nan_Latn": "zh_min_nan", "rup_Latn": "roa_rup", "vro_Latn": "fiu_vro",
        "cbk_Latn": "cbk_zam", "sgs_Latn": "bat_smg", "cmn_Hani": "zh", "ekk_Latn": "et", "zxx_Zzzz": "other",
        "sw": "other", "nrm_Latn": "other",  # ISO's nrm is Narom, Wikipedia's is Norman (nrf)
    }  # fmt: skip
    assert {label: languages.from_lid(label, "openlid") for label in by_iso} == by_iso
    assert [languages.scheme_of(x) for x in ("__label__sw", "zh_yue", "swh_Latn")] == ["lid176", "lid176", "glotlid"]


def test_scripts_spacing_family_and_level() -> None:
    unspaced = {row.code for row in ALL if row.words != "space"}
    assert unspaced == {"zh", "wuu", "gan", "ja", "th", "lo", "km", "my", "shn", "mnw", "blk", "bo", "dz"}
    assert {code for code in unspaced if languages.get(code).words == "tsheg"} == {"bo", "dz"}
    assert {row.script for row in ALL} == set(scripts.NAMES)
    families = {row.code: row.family for row in ALL}
    assert [code for code, family in families.items() if not family] == ["other"]
    assert (families["sw"], families["ja"], families["eo"]) == ("Atlantic-Congo", "Japonic", "Constructed")
    wordfreq = pytest.importorskip("wordfreq")
    large, small = (set(wordfreq.available_languages(size)) for size in ("large", "small"))
    named = {row.wordfreq: row for row in ALL if row.wordfreq}
    assert set(named) == large | small
    assert {code for code, row in named.items() if row.resource_level == "high"} == large


def test_config_names_every_wrong_language_with_a_suggestion() -> None:
    problems = LanguagesConfig(codes=("en", "zh_yue", "swa", "en"), lid_model="nowhere.bin").problems()
    words = ('duplicate language "en"', 'did you mean "zh"?', 'unknown language "swa"', "nowhere.bin")
    assert [word in problem for word, problem in zip(words, problems, strict=True)] == [True] * 4
    assert LanguagesConfig().run_codes == tuple(row.code for row in ALL)
    assert LanguagesConfig(codes=("sw", "en")).run_codes == ("en", "sw")
    with pytest.raises(KeyError, match="zh"):
        languages.get("zhh")


TAGS = {
    "deu": "de", "ger": "de", "DE": "de", "de-DE": "de", "de_AT": "de", "German": "de", "english": "en", "zh-CN": "zh",
    "zh-Hant-TW": "zh", "cmn": "zh", "zh_yue": "zh", "iw": "he", "iw-IL": "he", "nb-NO": "no", "sr-Latn-RS": "sr",
    "fil": "tl", "swa": "sw", " pt-BR ": "pt", "mon": "mn",
}  # fmt: skip


def test_labels_of_a_pool_may_be_codes_of_wikipedias() -> None:
    for wiki, code in languages.INSTALLED.by_wikipedia().items():
        assert languages.code_of_stated(wiki, ["zh", "be"], languages.INSTALLED) == code
    assert languages.code_of_stated("zh_Hant", ["en"], languages.INSTALLED) == "zh"


def test_tags_of_other_standards_mean_our_code_and_other_texts_none() -> None:
    assert {tag: languages.INSTALLED.from_tag(tag) for tag in TAGS} == TAGS
    for tag, code in TAGS.items():
        assert f'did you mean "{code}"?' in LanguagesConfig(codes=(tag,)).problems()[0]
    for text in ("", "und", "mul", "unknown", "xx", "none", "german text", "zxx", "-"):
        assert languages.INSTALLED.from_tag(text) is None


def test_the_hub_gets_iso_639_codes_and_none_of_another_language() -> None:
    added = Languages(
        (
            AddedLanguage(name="Kabuverdianu", script="Latn", iso639_3=("kea_Latn",)).row("kea"),
            AddedLanguage(name="Mine", script="Latn", lid176=("xx",)).row("xx"),
        )
    )
    hub_codes = {
        "de": "de", "no": "no", "ceb": "ceb", "bat_smg": "sgs", "zh_min_nan": "nan", "als": "gsw", "nrm": "nrf",
        "sh": "hbs", "bh": "bho", "simple": None, "roa_tara": None, "other": None, "und": None,
        "kea": "kea", "xx": None,
    }  # fmt: skip
    assert {code: added.hub_code(code) for code in hub_codes} == hub_codes
    every = [code for row in added.all_languages() if (code := added.hub_code(row.code)) is not None]
    assert all(re.fullmatch("[a-z]{2,3}", code) for code in every)
    assert len(every) > 310


# --- added languages --------------------------------------------------------------------------------------------------

KEA = {"name": "Kabuverdianu", "script": "Latn", "iso639_3": ["kea"], "family": "Indo-European"}


def test_label_with_a_script_goes_to_the_list_of_its_own_and_others_to_that_of_the_code() -> None:
    script = AddedLanguage(name="Kashmiri in Devanagari", script="Deva", iso639_3=("kas_Deva",))
    kea = AddedLanguage(name="Kabuverdianu", script="Latn", iso639_3=("kea_Latn",))
    config = LanguagesConfig(add={"ks_deva": script, "kea": kea})
    labels = ("kas_Deva", "kas_Arab", "kea_Latn", "kea_Cyrl")
    assert [config.table.from_lid(label, "glotlid") for label in labels] == ["ks_deva", "ks", "kea", "other"]
    assert [config.table.from_tag(tag) for tag in ("KEA", "kabuverdianu", "kea-CV")] == ["kea"] * 3


def sections(folder: Path, **added: Any) -> dict[str, Any]:
    return {
        "pool": {"path": str(folder / "pool"), "lang": "json:language"},
        "languages": {"codes": ["en", "kea"], "add": added or {"kea": KEA}},
        "metadata": {"lists": {lang: str(folder / f"{lang}.txt") for lang in ("en", "kea")}},
        "balance": {"tail_fraction": 0.5},
    }


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A pool of two tars whose records state English and Kabuverdianu, and a list of each."""
    (tmp_path / "en.txt").write_text("fish\nboat\n", encoding="utf-8")
    (tmp_path / "kea.txt").write_text("pexe\nbarku\n", encoding="utf-8")
    for shard in range(2):
        record = {"texts": ["a fish", "un pexe na mar"], "language": ["eng_Latn", "kea_Latn"]}
        stems = [f"{n:03}" for n in range(10 * shard, 10 * shard + 10)]
        write_tar(tmp_path / "pool" / f"{shard}.tar", [part for stem in stems for part in sample(stem, None, record)])
    return tmp_path


def test_added_language_goes_from_metadata_to_the_report_in_two_processes(world: Path) -> None:
    recipe, run = load_recipe(sections(world)), world / "run"
    two_processes = LocalExecutor(workers=2, quiet=True)
    for until, executor in {"metadata": QUIET, "match": two_processes, "curate": QUIET}.items():
        worldclip.run(recipe, run, until=until, executor=executor)
    matched = read_json(layout.report_json(run / "match"))["texts"]
    assert matched["kea"]["matched"] == matched["en"]["matched"] == 20
    assert require_manifest(run, "match")["lists"] == {"en": 2, "kea": 2}
    assert read_json(layout.thresholds(run))["lists"]["kea"]["num_matches"] == 20
    assert "Kabuverdianu" in layout.report_html(run).read_text(encoding="utf-8")
    assert load_recipe(run).languages.add["kea"].row("kea") == languages_of(run).get("kea")
    assert inspect_entry(run, "pexe", "kea")["matches"] == 20


def test_another_recipe_does_not_know_the_language(world: Path) -> None:
    values = sections(world)
    assert load_recipe(values).languages.table.from_lid("kea_Latn", "glotlid") == "kea"
    values["languages"] = {"codes": ["kea"]}
    with pytest.raises(UserError, match=r'unknown language "kea"; .*\[languages.add.kea\]') as refused:
        load_recipe(values)
    assert len(refused.value.problems) == 2  # languages.codes and metadata.lists
    assert languages.from_lid("kea_Latn", "glotlid") == languages.OTHER


def test_all_mistakes_of_added_languages_are_named_at_once(world: Path) -> None:
    wrong = {
        "sw": KEA | {"iso639_3": []},
        "merged": KEA | {"iso639_3": []},
        "Kea-CV": {"name": "", "script": "latin"},
        "kea": KEA | {"iso639_3": ["kea", "por", "__label__kea_Latn"], "wikipedia": ["pt"]},
        "krio": KEA | {"lid176": ["pt"]},
    }
    with pytest.raises(UserError) as refused:
        load_recipe(sections(world, **wrong))
    problems = "\n".join(refused.value.problems)
    for words in (
        "sw: is an installed language", "merged: is not a code", "Kea-CV: is not a code", "Kea-CV.name",
        "Kea-CV.script", 'kea.iso639_3: "por" belongs to pt', 'krio.iso639_3: "kea" belongs to kea',
        'kea.wikipedia: "pt" belongs to pt', 'kea.iso639_3: "__label__kea_Latn" is not a code',
        'krio.lid176: "pt" belongs to pt',
    ):  # fmt: skip
        assert f"languages.add.{words}" in problems
    for kea, message in (({"name": "x", "skript": "Latn"}, r"kea\.skript; did you mean script"), (3, "a section")):
        with pytest.raises(UserError, match=message):
            load_recipe(sections(world, kea=kea))


def test_changed_row_rebuilds_its_list_alone(world: Path) -> None:
    def recipe(words: str) -> Recipe:
        return load_recipe(sections(world, kea=KEA | {"words": words}))

    finish("metadata", recipe("space"), world / "run", QUIET)
    assert why_run("metadata", recipe("space"), world / "run") is None
    assert why_run("metadata", recipe("icu"), world / "run") == "languages.add.kea.words was space, is icu"
    before = modified(world / "run/metadata", "*.parquet")
    finish("metadata", recipe("icu"), world / "run", QUIET)
    written = modified(world / "run/metadata", "*.parquet").items() - before.items()
    assert [path.stem for path, _ in written] == ["kea"]


# --- characters and words ---------------------------------------------------------------------------------------------

MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
UNSPACED = "猫กກကកཀ"


@pytest.mark.parametrize(
    ("classes_of", "characters", "expected"),
    [
        (tokens.spaced_classes, "azAZ09ね", WORD),  # kana is not in the recipe's set
        (tokens.spaced_classes, UNSPACED, ALONE),
        (tokens.spaced_classes, " \t\u00a0\u3000\x1f", JOINT),
        (tokens.spaced_classes, f"{MARKS}，。“”’།\n\r\x0b\x0c\x85\u2028", BARRIER),
        (tokens.ascii_classes, "a9é»।±", WORD),  # the reference knows no punctuation but that of ASCII
        (tokens.ascii_classes, "猫，。—”།", ALONE),
        (tokens.ascii_classes, " \u00a0\x1f", JOINT),
        (tokens.ascii_classes, f"{MARKS}\n", BARRIER),
        (tokens.segmented_classes, f"{UNSPACED}ね", WORD),
        (tokens.segmented_classes, "\x1f", JOINT),
        (tokens.segmented_classes, " \u3000\n，", BARRIER),
        (tokens.tsheg_classes, "\u0f0b\u0f0c", JOINT),
    ],
)
def test_classes_of_characters(classes_of: Callable[[], np.ndarray], characters: str, expected: int):
    assert {int(classes_of()[ord(x)]) for x in characters} == {expected}


def test_schemes_of_wikipedias():
    assert scheme_of("sw", punctuation="ascii") is tokens.ASCII_SPACES
    assert scheme_of("th", punctuation="ascii") == scheme_of("th"), "segmenters are not the reference's"
    assert scheme_of("bo") == scheme_of("dz") == TSHEGS
    assert (TSHEGS.joiner, scheme_of("zh").locale) == ("\u0f0b", "zh")


WORDS = {"zh": "我 喜欢 北京 大学 。", "th": "แมว กิน ปลา", "ja": "猫 が 好き です 。", "lo": "ປະເທດ ລາວ",
         "km": "ប្រទេស កម្ពុជា", "my": "ကျောင်းသား များ"}  # fmt: skip


def test_icu_finds_the_words():
    for wiki, found in WORDS.items():
        text = pa.array([found.replace(" ", "")], pa.large_string())
        assert tokens.segment(text, scheme_of(wiki)).to_pylist() == [found.replace(" ", "\x1f")]


# Of Unicode 15.0 and 15.1, newer than the table: letters, a mark, punctuation, a digit.
NEW_HAN, NEW_LAO_MARK, NEW_KANNADA_MARK, NEW_CYRILLIC = "\U00031350", "\u0ece", "\u0cf3", "\U0001e030"
NEW_PUNCTUATION, NEW_DIGIT = "\U00011b00", "\U00011f50"
NEW_MARK_BELOW, NEW_MARK_ABOVE_RIGHT = "\U00010efd", "\U0001e4ec"  # combining classes 220 and 232 in 15.0
NEWER = (
    NEW_HAN,
    NEW_LAO_MARK,
    NEW_KANNADA_MARK,
    NEW_CYRILLIC,
    NEW_PUNCTUATION,
    NEW_DIGIT,
    NEW_MARK_BELOW,
    NEW_MARK_ABOVE_RIGHT,
)
EVERY = [chr(c) for c in range(0x110000)]


@pytest.fixture(scope="module")
def known() -> list[str]:
    """The characters that the table has."""
    return [EVERY[c] for c in np.flatnonzero(~characters.is_in("Cn")).tolist()]


def test_interpreter_agrees_on_every_character_of_the_table(known: list[str]) -> None:
    """A later Python that fails here gives other lists: its answers must then come from the table as well."""
    categories = load_categories()
    assert [x for x in known if unicodedata.category(x) != CATEGORIES[categories[ord(x)]]] == []
    blanks = [x for x in EVERY if x.isspace()]
    assert "".join(blanks) == characters.WHITESPACE
    assert "".join(x for x in EVERY if re.match(r"\s", x)) == characters.WHITESPACE
    assert [x for x in known if x.isalnum() != (CATEGORIES[categories[ord(x)]][0] in "LN")] == []
    text = "".join(known)
    assert re.sub(f"[{characters.word_class()}]", "", text) == re.sub(r"\w", "", text)
    assert re.sub(f"[{characters.digit_class()}]", "", text) == re.sub(r"\d", "", text)


def test_characters_and_texts_change_as_in_str(known: list[str]) -> None:
    text = "ΟΔΟΣ ΣΑΣ'Σ istanbul İ ǆ ß\u0301"
    for name in ("lower", "upper", "casefold", "title"):
        change = getattr(characters, name)
        assert [x for x in known if change(x) != getattr(x, name)()] == []
        assert name == "title" or change(text) == getattr(text, name)()


@pytest.mark.parametrize("x", NEWER)
def test_newer_characters_have_no_properties_and_end_the_context_of_a_change(x: str) -> None:
    assert CATEGORIES[load_categories()[ord(x)]] == "Cn"
    for change in (characters.lower, characters.upper, characters.title, characters.casefold, characters.nfc):
        assert change(x) == x
    assert not re.match(f"[{characters.word_class()}{characters.digit_class()}]", x)
    assert tokens.spaced_classes()[ord(x)] not in (WORD, ALONE)
    assert not is_punctuation(x)
    assert not is_punctuation(f"!{x}")
    assert title_case(f"{x}a", "en") == f"{x}a"
    assert characters.lower(f"ΟΔΟΣ{x}Σ") == f"οδος{x}σ"
    assert normalise(f"E\u0301{x}\u0301 STRASSE\u0307", "unicode_fold") == f"\xe9{x}\u0301 strass\u0117"
    for text in (f"a\u0653{x}", f"a{x}\u0653"):  # no mark moves past another
        assert normalise(text, "unicode") == text


NORMAL = [  # text, and the same under unicode and unicode_fold
    ("  Cafe\u0301\u3000\u00a0 au  LAIT\n", "Café au LAIT", "café au lait"),
    ("Straße \u0130stanbul", "Straße \u0130stanbul", "strasse i\u0307stanbul"),
    ("\x1cx\x1f", "\x1cx\x1f", "\x1cx\x1f"),
    (" \u2028 ", "", ""),
    ("\u0958", "\u0915\u093c", "\u0915\u093c"),
]


def test_profiles_space_marks_or_compose_and_collapse_whitespace():
    reference = normalise("\u00a0Hi,there. x;y:z?!`'\t\n\r(ok)\x1c", "reference")
    assert reference == " Hi , there .  x ; y : z ?  !  ` '   (ok) "
    for text, unicode, folded in NORMAL:
        assert (normalise(text, "unicode"), normalise(text, "unicode_fold")) == (unicode, folded)
