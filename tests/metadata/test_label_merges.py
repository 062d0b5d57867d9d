"""Which labels of language identification share a list, frozen: a change here moves texts to another list."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from worldclip.language import table as languages

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

# Lists that several ISO 639-3 codes lead to: GlotLID's label is one of these with its script behind it.
SEVERAL_ISO = (
    "ar: ara aao abh abv acm acq acw acx acy adf aeb aec afb ajp apc apd arb arq ars auz avl ayh ayl ayn ayp bbz pga "
    "shu ssh; ay: aym ayc ayr; az: aze azj; bh: bho bih; bxr: bxr bua; ckb: ckb sdh; cr: cre crj crk crl crm csw cwd; "
    "din: din dib dik dip diw dks; diq: diq zza; eml: eml egl rgn; et: est ekk; fa: fas pes prs; ff: ful ffm fub fuc "
    "fue fuf fuh fui fuq fuv; gn: grn gnw gug gui gun nhd; gom: gom kok; ik: ipk esi esk; iu: iku ike ikt; kg: kon "
    "kng kwy ldi; ku: kur kmr; kv: kom kpv; lv: lav lvs; mg: mlg bhr bjq bmm bzc msh plt skg tdx tkg txy xmv xmw; "
    "mhr: mhr chm; mn: mon khk mvf; ms: msa btj bve bvu coa dup hji jak jax kvb kvr kxd lce lcf liw max meo mfa mfb "
    "mqg msi mui orn ors pel pse tmw urk vkk vkt xmm zlm zmi zsm; nah: nah nci; nds: nds act drt gos sdz stl twd vel; "
    "ne: nep npi; no: nob nor; om: orm gax gaz hae orc; or: ori ory spv; ps: pus pbt pbu pst; qu: que cqu qub qud quf "
    "qug quh quk qul qup qur qus quw qux quy quz qva qvc qve qvh qvi qvj qvl qvm qvn qvo qvp qvs qvw qvz qwa qwc qwh "
    "qws qxa qxc qxh qxl qxn qxo qxp qxr qxt qxu qxw; rmy: rmy rom; sc: srd sdc sdn src sro; sh: hbs cnr; sq: sqi aae "
    "aat aln als; sw: swa swc swh; tl: tgl fil; tw: twi aka; uz: uzb uzn uzs; yi: yid ydd yih; za: zha zch zeh zgb "
    "zgm zgn zhd zhn zlj zln zlq zqe zyb zyg zyj zyn zzj; zh: zho cmn yue lzh cjy cnp cpx csp czh czo hsn mnp "
    "nan_Hani nan_Hans nan_Hant"
)

# Labels of lid.176 that are not the name of their list.
LID176_MERGES = {"zh": ["yue", "zh"], "cbk_zam": ["cbk"], "other": ["lrc"]}


def test_every_openlid_label_keeps_its_list() -> None:
    frozen = dict(pair.split(":") for pair in OPENLID.split())
    assert len(frozen) == 204
    assert {label: languages.from_lid(label, "openlid") for label in frozen} == frozen
    assert {label: languages.from_lid(f"__label__{label}", "glotlid") for label in frozen} == frozen


def test_openlid_merges_are_frozen() -> None:
    merged = defaultdict(list)
    for label, code in (pair.split(":") for pair in OPENLID.split()):
        merged[code].append(label)
    several = {code: " ".join(labels) for code, labels in merged.items() if len(labels) > 1}
    assert several.pop("other").split() == [
        "bem_Latn", "cjk_Latn", "dyu_Latn", "hne_Deva", "kac_Latn", "kam_Latn", "kea_Latn", "kmb_Latn", "knc_Arab",
        "knc_Latn", "lua_Latn", "luo_Latn", "lus_Latn", "mag_Deva", "mos_Latn", "nus_Latn", "taq_Latn", "taq_Tfng",
        "tzm_Tfng", "umb_Latn",
    ]  # fmt: skip
    assert several == {
        "ace": "ace_Arab ace_Latn",
        "ar": "acm_Arab acq_Arab aeb_Arab ajp_Arab apc_Arab arb_Arab arb_Latn ars_Arab",
        "bjn": "bjn_Arab bjn_Latn",
        "fa": "pes_Arab prs_Arab",
        "ks": "kas_Arab kas_Deva",
        "min": "min_Arab min_Latn",
        "tw": "aka_Latn twi_Latn",
        "zh": "yue_Hant zho_Hans zho_Hant",
    }


def test_glotlid_merges_are_frozen() -> None:
    several = (f"{row.code}: {' '.join(row.iso639_3)}" for row in languages.all_languages() if len(row.iso639_3) > 1)
    assert "; ".join(several) == SEVERAL_ISO


@pytest.mark.parametrize("script", ["Latn", "Cyrl", "Arab", "Zzzz"])
def test_every_glotlid_code_maps_to_one_list_in_any_script(script: str, shared: Path) -> None:
    glotlid_codes = json.loads((shared / "facts/glotlid_languages.json").read_text())
    ours = {iso: row.code for row in languages.all_languages() for iso in row.iso639_3}
    for iso in glotlid_codes:
        assert languages.from_lid(f"{iso}_{script}", "glotlid") == ours.get(iso, languages.OTHER)
    assert len(glotlid_codes) == 8305
    assert sum(iso in ours for iso in glotlid_codes) == 555


def test_lid176_merges_are_frozen() -> None:
    from worldclip.language.identify import model_path, read_labels

    labels = read_labels(model_path("lid176"))
    assert len(labels) == 176
    merged = defaultdict(list)
    for label in sorted(labels):
        merged[languages.from_lid(label)].append(label)
    assert {code: labels for code, labels in merged.items() if labels != [code]} == LID176_MERGES
