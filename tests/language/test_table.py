"""The table of languages against its sources, and its merges frozen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldclip.language import table as languages
from worldclip.language.config import AddedLanguage, LanguagesConfig

MERGED_WIKIPEDIAS = {"zh": ("zh", "zh_classical", "zh_yue"), "be": ("be", "be_tarask"), "nds": ("nds", "nds_nl")}
RENAMED_LID176 = {"yue": "zh", "cbk": "cbk_zam", "lrc": "other"}
OTHER_UNDER_LID176 = (
    "ab ace ady alt ami ang anp arc ary atj avk awa ay ban bat_smg bbc bew bi bjn blk bm bug cdo ch chr chy cr "
    "crh csb cu dag dga din dtp dz ee ext fat ff fiu_vro fj fo fon frp fur gag gan gcr glk gor got gpe guc gur "
    "guw ha hak haw hyw ig igl ik inh iu jam kaa kab kbd kbp kcg kg ki kl koi ks ksh kus lad lbe lfn lg lij "
    "lld ln ltg mad map_bms mdf mi mni mnw nia nov nqo nrm nso nv ny olo om pag pap pcd pcm pdc pi pih pnt pwn "
    "rmy rn roa_rup roa_tara rw sat se sg shi shn skr sm smn sn srn ss st stq szl szy tay tcy tet ti tly tn to "
    "tpi trv ts tum tw ty udm ve wo xh za zea zgh zh_min_nan zu"
)


def test_every_label_of_the_shipped_model_is_in_exactly_one_row() -> None:
    from worldclip.language.identify import model_path, read_labels

    rows = [label for language in languages.all_languages() for label in language.lid176]
    assert len(rows) == len(set(rows))
    assert sorted(rows) == sorted(read_labels(model_path("lid176")))


def test_three_labels_of_the_shipped_model_are_renamed() -> None:
    from worldclip.language.identify import model_path, read_labels

    moved = {label: languages.from_lid(label) for label in read_labels(model_path("lid176"))}
    assert {label: code for label, code in moved.items() if label != code} == RENAMED_LID176


def test_every_wikipedia_makes_exactly_one_list(shared: Path) -> None:
    codes = (shared / "facts/wikipedia_codes.txt").read_text().split()
    rows = [wiki for language in languages.all_languages() for wiki in language.wikipedia]
    assert sorted(rows) == sorted(codes)
    assert len(codes) == 330


def test_merged_wikipedias_are_those_of_the_recipe() -> None:
    several = {
        language.code: language.wikipedia for language in languages.all_languages() if len(language.wikipedia) > 1
    }
    assert several == MERGED_WIKIPEDIAS
    alone = [language for language in languages.all_languages() if len(language.wikipedia) == 1]
    assert all(language.wikipedia == (language.code,) for language in alone)


def test_other_holds_the_wikipedias_that_no_label_maps_to() -> None:
    assert " ".join(languages.wikipedias("other")) == OTHER_UNDER_LID176
    assert languages.wikipedias("other", "glotlid") == ("map_bms", "roa_tara")


def test_simple_english_has_its_own_list_and_no_label() -> None:
    simple = languages.get("simple")
    assert (simple.wikipedia, simple.lid176, simple.iso639_3) == (("simple",), (), ())
    assert not any("simple" in languages.wikipedias("other", scheme) for scheme in ("lid176", "glotlid"))


def test_known_errors_of_the_reference_are_corrected() -> None:
    assert languages.from_wordnet("als") == "sq"
    assert languages.from_lid("als") == "als"  # lid.176 follows Wikipedia: Alemannic
    assert languages.from_lid("gsw_Latn", "glotlid") == "als"
    assert languages.from_lid("als_Latn", "glotlid") == "sq"
    assert languages.get("zh_min_nan").script == "Latn"
    assert languages.from_lid("nan_Latn", "glotlid") == "zh_min_nan"
    lost = {"rup": "roa_rup", "vro": "fiu_vro", "cbk": "cbk_zam", "sgs": "bat_smg"}
    assert {iso: languages.from_lid(f"{iso}_Latn", "glotlid") for iso in lost} == lost
    assert languages.from_lid("nrm_Latn", "glotlid") == "other"  # ISO's nrm is Narom, Wikipedia's is Norman (nrf)


@pytest.mark.parametrize(
    ("label", "scheme", "code"),
    [
        ("yue", "lid176", "zh"),
        ("__label__wuu", "lid176", "wuu"),
        ("no", "lid176", "no"),
        ("xx", "lid176", "other"),
        ("", "lid176", "other"),
        ("swh_Latn", "glotlid", "sw"),
        ("__label__zho_Hans", "openlid", "zh"),
        ("cmn_Hani", "glotlid", "zh"),
        ("yue_Hant", "openlid", "zh"),
        ("acm_Arab", "openlid", "ar"),
        ("arz_Arab", "openlid", "arz"),
        ("ekk_Latn", "openlid", "et"),
        ("gaz_Latn", "glotlid", "om"),
        ("nob_Latn", "glotlid", "no"),
        ("nno_Latn", "glotlid", "nn"),
        ("ceb_Latn", "glotlid", "ceb"),
        ("zxx_Zzzz", "glotlid", "other"),
        ("sw", "glotlid", "other"),
    ],
)
def test_labels_resolve(label: str, scheme: languages.Scheme, code: str) -> None:
    assert languages.from_lid(label, scheme) == code


def test_every_glotlid_language_resolves_to_one_list(shared: Path) -> None:
    known = json.loads((shared / "facts/glotlid_languages.json").read_text())
    rows = [label for language in languages.all_languages() for label in language.iso639_3]
    assert len(rows) == len(set(rows))
    assert {label.partition("_")[0] for label in rows} <= set(known)
    codes = {language.code for language in languages.all_languages()}
    assert {languages.from_lid(f"{iso}_Latn", "glotlid") for iso in known} < codes


def test_wordnets_of_the_published_table_resolve(shared: Path) -> None:
    lines = (shared / "facts/omw_to_wikipedia.csv").read_text().splitlines()[1:]
    theirs = {line.split(",")[0]: line.split(",")[1] for line in lines}
    assert {code: languages.from_wordnet(code) for code in theirs} == theirs


def test_scripts_spacing_and_level() -> None:
    assert languages.get("sw").script == "Latn"
    unspaced = {language.code for language in languages.all_languages() if language.words != "space"}
    assert unspaced == {"zh", "wuu", "gan", "ja", "th", "lo", "km", "my", "shn", "mnw", "blk", "bo", "dz"}
    assert {code for code in unspaced if languages.get(code).words == "tsheg"} == {"bo", "dz"}
    assert languages.get("en").resource_level == "high"
    assert languages.get("sw").resource_level == "low"
    scripts = {language.script for language in languages.all_languages()}
    assert all(len(script) == 4 and script.istitle() for script in scripts)


def test_resource_level_and_wordfreq_follow_the_package() -> None:
    wordfreq = pytest.importorskip("wordfreq")
    large, small = (set(wordfreq.available_languages(size)) for size in ("large", "small"))
    named = {language.wordfreq: language for language in languages.all_languages() if language.wordfreq}
    assert set(named) == large | small
    assert {code for code, language in named.items() if language.resource_level == "high"} == large


def test_scheme_of_labels() -> None:
    assert [languages.scheme_of(x) for x in ("__label__sw", "zh_yue", "swh_Latn")] == ["lid176", "lid176", "glotlid"]


def test_config_names_every_wrong_language_with_a_suggestion() -> None:
    problems = LanguagesConfig(codes=("en", "zh_yue", "swa", "en"), lid_model="nowhere.bin").problems()
    assert len(problems) == 4
    assert 'duplicate language "en"' in problems[0]
    assert 'did you mean "zh"?' in problems[1]
    assert 'unknown language "swa"' in problems[2]
    assert "nowhere.bin" in problems[3]


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("deu", "de"), ("ger", "de"), ("DE", "de"), ("de-DE", "de"), ("de_AT", "de"), ("German", "de"),
        ("english", "en"), ("zh-CN", "zh"), ("zh-Hant-TW", "zh"), ("cmn", "zh"), ("zh_yue", "zh"),
        ("iw", "he"), ("iw-IL", "he"), ("nb-NO", "no"), ("sr-Latn-RS", "sr"), ("fil", "tl"), ("swa", "sw"),
        (" pt-BR ", "pt"),
    ],
)  # fmt: skip
def test_tags_of_other_standards_mean_our_code(tag: str, code: str) -> None:
    assert languages.INSTALLED.from_tag(tag) == code
    assert f'did you mean "{code}"?' in LanguagesConfig(codes=(tag,)).problems()[0]


@pytest.mark.parametrize("text", ["", "und", "mul", "unknown", "xx", "none", "german text", "zxx", "-"])
def test_other_texts_are_no_language(text: str) -> None:
    assert languages.INSTALLED.from_tag(text) is None


def test_added_language_is_found_by_its_name_and_label() -> None:
    config = LanguagesConfig(add={"kea": AddedLanguage(name="Kabuverdianu", script="Latn", iso639_3=("kea_Latn",))})
    assert [config.table.from_tag(tag) for tag in ("KEA", "kabuverdianu", "kea-CV")] == ["kea"] * 3


def test_empty_codes_mean_the_whole_table() -> None:
    assert LanguagesConfig().run_codes == tuple(language.code for language in languages.all_languages())
    assert LanguagesConfig(codes=("sw", "en")).run_codes == ("en", "sw")


def test_unknown_code_raises_key_error_with_a_suggestion() -> None:
    with pytest.raises(KeyError, match="did you mean 'zh'"):
        languages.get("zhh")


def test_every_language_has_a_family() -> None:
    families = {language.code: language.family for language in languages.all_languages()}
    assert [code for code, family in families.items() if not family] == ["other"]
    assert (families["sw"], families["ja"], families["eo"]) == ("Atlantic-Congo", "Japonic", "Constructed")
