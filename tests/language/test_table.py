"""The table of languages against its sources, its merges frozen, and languages that a recipe adds."""

import hashlib
import json
import re
import runpy
from pathlib import Path
from typing import Any

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
from worldclip.language import scripts
from worldclip.language import table as languages
from worldclip.language.config import AddedLanguage, LanguagesConfig, languages_of
from worldclip.language.identify import read_labels
from worldclip.tools.inspect_run import inspect_entry

ROOT = Path(__file__).parents[2]

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

# OpenLID's labels are those of FLORES-200; here all 204 of them, each with the list that its texts go to.
OPENLID = (
    "ace_Arab:ace ace_Latn:ace acm_Arab:ar acq_Arab:ar aeb_Arab:ar afr_Latn:af ajp_Arab:ar aka_Latn:tw als_Latn:sq "
    "amh_Ethi:am apc_Arab:ar arb_Arab:ar arb_Latn:ar ars_Arab:ar ary_Arab:ary arz_Arab:arz asm_Beng:as ast_Latn:ast "
    "awa_Deva:awa ayr_Latn:ay azb_Arab:azb azj_Latn:az bak_Cyrl:ba bam_Latn:bm ban_Latn:ban bel_Cyrl:be "
    "bem_Latn:other ben_Beng:bn bho_Deva:bh bjn_Arab:bjn bjn_Latn:bjn bod_Tibt:bo bos_Latn:bs bug_Latn:bug "
    "bul_Cyrl:bg cat_Latn:ca ceb_Latn:ceb ces_Latn:cs cjk_Latn:other ckb_Arab:ckb crh_Latn:crh cym_Latn:cy "
    "dan_Latn:da deu_Latn:de dik_Latn:din dyu_Latn:other dzo_Tibt:dz ell_Grek:el eng_Latn:en epo_Latn:eo est_Latn:et "
    "eus_Latn:eu ewe_Latn:ee fao_Latn:fo fij_Latn:fj fin_Latn:fi fon_Latn:fon fra_Latn:fr fur_Latn:fur fuv_Latn:ff "
    "gaz_Latn:om gla_Latn:gd gle_Latn:ga glg_Latn:gl grn_Latn:gn guj_Gujr:gu hat_Latn:ht hau_Latn:ha heb_Hebr:he "
    "hin_Deva:hi hne_Deva:other hrv_Latn:hr hun_Latn:hu hye_Armn:hy ibo_Latn:ig ilo_Latn:ilo ind_Latn:id isl_Latn:is "
    "ita_Latn:it jav_Latn:jv jpn_Jpan:ja kab_Latn:kab kac_Latn:other kam_Latn:other kan_Knda:kn kas_Arab:ks "
    "kas_Deva:ks kat_Geor:ka kaz_Cyrl:kk kbp_Latn:kbp kea_Latn:other khk_Cyrl:mn khm_Khmr:km kik_Latn:ki kin_Latn:rw "
    "kir_Cyrl:ky kmb_Latn:other kmr_Latn:ku knc_Arab:other knc_Latn:other kon_Latn:kg kor_Hang:ko lao_Laoo:lo "
    "lij_Latn:lij lim_Latn:li lin_Latn:ln lit_Latn:lt lmo_Latn:lmo ltg_Latn:ltg ltz_Latn:lb lua_Latn:other "
    "lug_Latn:lg luo_Latn:other lus_Latn:other lvs_Latn:lv mag_Deva:other mai_Deva:mai mal_Mlym:ml mar_Deva:mr "
    "min_Arab:min min_Latn:min mkd_Cyrl:mk mlt_Latn:mt mni_Beng:mni mos_Latn:other mri_Latn:mi mya_Mymr:my "
    "nld_Latn:nl nno_Latn:nn nob_Latn:no npi_Deva:ne nso_Latn:nso nus_Latn:other nya_Latn:ny oci_Latn:oc ory_Orya:or "
    "pag_Latn:pag pan_Guru:pa pap_Latn:pap pbt_Arab:ps pes_Arab:fa plt_Latn:mg pol_Latn:pl por_Latn:pt prs_Arab:fa "
    "quy_Latn:qu ron_Latn:ro run_Latn:rn rus_Cyrl:ru sag_Latn:sg san_Deva:sa sat_Olck:sat scn_Latn:scn shn_Mymr:shn "
    "sin_Sinh:si slk_Latn:sk slv_Latn:sl smo_Latn:sm sna_Latn:sn snd_Arab:sd som_Latn:so sot_Latn:st spa_Latn:es "
    "srd_Latn:sc srp_Cyrl:sr ssw_Latn:ss sun_Latn:su swe_Latn:sv swh_Latn:sw szl_Latn:szl tam_Taml:ta taq_Latn:other "
    "taq_Tfng:other tat_Cyrl:tt tel_Telu:te tgk_Cyrl:tg tgl_Latn:tl tha_Thai:th tir_Ethi:ti tpi_Latn:tpi tsn_Latn:tn "
    "tso_Latn:ts tuk_Latn:tk tum_Latn:tum tur_Latn:tr twi_Latn:tw tzm_Tfng:other uig_Arab:ug ukr_Cyrl:uk "
    "umb_Latn:other urd_Arab:ur uzn_Latn:uz vec_Latn:vec vie_Latn:vi war_Latn:war wol_Latn:wo xho_Latn:xh ydd_Hebr:yi "
    "yor_Latn:yo yue_Hant:zh zho_Hans:zh zho_Hant:zh zsm_Latn:ms zul_Latn:zu"
)


def test_every_label_of_the_shipped_model_is_in_one_row_and_three_are_renamed() -> None:
    labels = read_labels("lid176")
    assert len(labels) == 176
    assert sorted(label for language in languages.all_languages() for label in language.lid176) == sorted(labels)
    moved = {label: languages.from_lid(label) for label in labels}
    assert {label: code for label, code in moved.items() if label != code} == RENAMED_LID176


def test_every_openlid_label_keeps_its_list() -> None:
    frozen = dict(pair.split(":") for pair in OPENLID.split())
    assert len(frozen) == 204
    assert {label: languages.from_lid(label, "openlid") for label in frozen} == frozen
    assert {label: languages.from_lid(f"__label__{label}", "glotlid") for label in frozen} == frozen


def test_glotlid_merges_are_frozen() -> None:
    """Lists that several ISO 639-3 codes lead to: GlotLID's label is one of these with its script behind it."""
    several = (f"{row.code}: {' '.join(row.iso639_3)}" for row in languages.all_languages() if len(row.iso639_3) > 1)
    assert hashlib.sha256("; ".join(several).encode()).hexdigest()[:16] == "7df58313721b7720"


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
        ("__label__wuu", "lid176", "wuu"),
        ("xx", "lid176", "other"),
        ("", "lid176", "other"),
        ("cmn_Hani", "glotlid", "zh"),
        ("ekk_Latn", "openlid", "et"),
        ("zxx_Zzzz", "glotlid", "other"),
        ("sw", "glotlid", "other"),
    ],
)
def test_labels_resolve(label: str, scheme: languages.Scheme, code: str) -> None:
    assert languages.from_lid(label, scheme) == code


def test_every_glotlid_code_maps_to_one_list_in_any_script(shared: Path) -> None:
    codes = json.loads((shared / "facts/glotlid_languages.json").read_text())
    rows = [label for language in languages.all_languages() for label in language.iso639_3]
    assert len(rows) == len(set(rows))
    assert {label.partition("_")[0] for label in rows} <= set(codes)
    ours = {iso: language.code for language in languages.all_languages() for iso in language.iso639_3}
    for script in ("Latn", "Cyrl", "Arab", "Zzzz"):
        found = {iso: languages.from_lid(f"{iso}_{script}", "glotlid") for iso in codes}
        assert found == {iso: ours.get(iso, languages.OTHER) for iso in codes}
    assert len(codes) == 8305
    assert sum(iso in ours for iso in codes) == 555


def test_wordnets_of_the_published_table_resolve(shared: Path) -> None:
    lines = (shared / "facts/omw_to_wikipedia.csv").read_text().splitlines()[1:]
    theirs = {line.split(",")[0]: line.split(",")[1] for line in lines}
    assert {code: languages.from_wordnet(code) for code in theirs} == theirs


def test_scripts_spacing_family_and_level() -> None:
    unspaced = {language.code for language in languages.all_languages() if language.words != "space"}
    assert unspaced == {"zh", "wuu", "gan", "ja", "th", "lo", "km", "my", "shn", "mnw", "blk", "bo", "dz"}
    assert {code for code in unspaced if languages.get(code).words == "tsheg"} == {"bo", "dz"}
    assert (languages.get("en").resource_level, languages.get("sw").resource_level) == ("high", "low")
    assert {language.script for language in languages.all_languages()} == set(scripts.NAMES)
    families = {language.code: language.family for language in languages.all_languages()}
    assert [code for code, family in families.items() if not family] == ["other"]
    assert (families["sw"], families["ja"], families["eo"]) == ("Atlantic-Congo", "Japonic", "Constructed")


def test_label_with_a_script_goes_to_the_list_of_its_own_and_others_to_that_of_the_code() -> None:
    script = AddedLanguage(name="Kashmiri in Devanagari", script="Deva", iso639_3=("kas_Deva",))
    kea = AddedLanguage(name="Kabuverdianu", script="Latn", iso639_3=("kea_Latn",))
    config = LanguagesConfig(add={"ks_deva": script, "kea": kea})
    labels = ("kas_Deva", "kas_Arab", "kea_Latn", "kea_Cyrl")
    assert [config.table.from_lid(label, "glotlid") for label in labels] == ["ks_deva", "ks", "kea", "other"]
    assert [config.table.from_tag(tag) for tag in ("KEA", "kabuverdianu", "kea-CV")] == ["kea"] * 3
    assert [languages.scheme_of(x) for x in ("__label__sw", "zh_yue", "swh_Latn")] == ["lid176", "lid176", "glotlid"]


def test_resource_level_and_wordfreq_follow_the_package() -> None:
    wordfreq = pytest.importorskip("wordfreq")
    large, small = (set(wordfreq.available_languages(size)) for size in ("large", "small"))
    named = {language.wordfreq: language for language in languages.all_languages() if language.wordfreq}
    assert set(named) == large | small
    assert {code for code, language in named.items() if language.resource_level == "high"} == large


def test_config_names_every_wrong_language_with_a_suggestion() -> None:
    problems = LanguagesConfig(codes=("en", "zh_yue", "swa", "en"), lid_model="nowhere.bin").problems()
    assert len(problems) == 4
    assert 'duplicate language "en"' in problems[0]
    assert 'did you mean "zh"?' in problems[1]
    assert 'unknown language "swa"' in problems[2]
    assert "nowhere.bin" in problems[3]
    assert LanguagesConfig().run_codes == tuple(language.code for language in languages.all_languages())
    assert LanguagesConfig(codes=("sw", "en")).run_codes == ("en", "sw")
    with pytest.raises(KeyError, match="zh"):
        languages.get("zhh")


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


def test_page_has_the_languages_without_a_label_in_lid176() -> None:
    page = (ROOT / "docs/world.md").read_text(encoding="utf-8")
    written = runpy.run_path(str(ROOT / "docs/world_labels.py"))
    assert written["with_table"](page) == page, "run: python docs/world_labels.py"
    part = page.partition("<!-- labels")[2]
    pairs = re.findall(r"(\w+) `(\w{3}_\w{4})`", part.partition("|---|---|")[2])
    assert len(pairs) > 50
    for code, label in pairs:
        assert languages.from_lid(label, "glotlid") == code
        assert not languages.get(code).lid176


KEA = {"name": "Kabuverdianu", "script": "Latn", "iso639_3": ["kea"], "family": "Indo-European"}


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
    text = "\n".join(refused.value.problems)
    for words in (
        "languages.add.sw: is an installed language (Swahili)",
        "languages.add.merged: is not a code",
        "languages.add.Kea-CV: is not a code",
        'languages.add.Kea-CV.name = "": must be the English name',
        'languages.add.Kea-CV.script = "latin": must be the ISO 15924 code',
        'languages.add.kea.iso639_3: "por" belongs to pt',
        'languages.add.kea.iso639_3: "kea" belongs to krio',
        'languages.add.krio.iso639_3: "kea" belongs to kea',
        'languages.add.kea.iso639_3: "__label__kea_Latn" is not a code or label',
        'languages.add.kea.wikipedia: "pt" belongs to pt',
        'languages.add.krio.lid176: "pt" belongs to pt',
    ):
        assert words in text, f"{words} is not in\n{text}"
    with pytest.raises(UserError, match=r"unknown key languages.add.kea.skript; did you mean script\?"):
        load_recipe(sections(world, kea={"name": "x", "skript": "Latn"}))
    with pytest.raises(UserError, match=r"languages.add.kea = 3: must be a section, \[languages.add.kea\]"):
        load_recipe(sections(world, kea=3))


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
