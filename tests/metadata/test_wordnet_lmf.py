"""WordNets in WN-LMF and in the database of the package wn give what OMW's tab files give."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import entry_lists
from entry_lists import build, manifest_of, words, write_lines
from served import Server
from served import server as server  # the fixture
from tars import tar_of
from worldclip.config import Recipe
from worldclip.core.errors import BadShard, UserError
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.source import Inputs, build_entries
from worldclip.metadata.sources.wordnet import OMW_LEXICONS, WORDNET, our_code, read_headers, read_wordnet

wn = pytest.importorskip("wn")

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-{version}.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
"""


def lexicon(lang: str, synsets: dict[str, list[str]], *, name: str = "made-up", members: bool = True) -> str:
    """A lexicon whose synsets have these lemmas, each lemma once, in the order in which the lemmas first come up."""
    senses: dict[str, list[str]] = {}
    for synset, lemmas in synsets.items():
        for lemma in lemmas:
            senses.setdefault(lemma, []).append(synset)
    number = {lemma: n for n, lemma in enumerate(senses)}
    lines = [
        f'<Lexicon id="{name}" label="Made up" language="{lang}" email="a@b.c" license="CC BY 4.0" version="1.0"'
        ' url="http://example.org">'
    ]
    for lemma, its in senses.items():
        of = "".join(f'<Sense id="s-{number[lemma]}-{synset}" synset="{name}-{synset}"/>' for synset in its)
        entry = f'<Lemma writtenForm="{lemma}" partOfSpeech="n"/><Form writtenForm="{lemma}s"/>'
        lines.append(f'<LexicalEntry id="{name}-e{number[lemma]}">{entry}{of}</LexicalEntry>')
    for synset, lemmas in synsets.items():
        named = f' members="{" ".join(f"s-{number[lemma]}-{synset}" for lemma in lemmas)}"' if members else ""
        lines.append(f'<Synset id="{name}-{synset}" ili="" partOfSpeech="n"{named}><Definition>x</Definition></Synset>')
    return "\n".join([*lines, "</Lexicon>"])


def lmf(*lexicons: str, version: str = "1.1") -> str:
    return HEAD.format(version=version) + "\n".join(lexicons) + "\n</LexicalResource>\n"


def lemmas(wordnet: Path | str, lang: str) -> list[str]:
    return [entry for entry, _ in read_wordnet(str(wordnet), lang)]


ENGLISH = {"1": ["New_York", "Big Apple"], "2": ["cat", "true cat"], "3": ["Big Apple", "apple"]}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Install a file in a database of wn's of our own; return the name of its lexicon."""
    monkeypatch.setattr(wn.config, "_data_directory", tmp_path / "wn_data")
    monkeypatch.setattr(wn.config, "_dbpath", tmp_path / "wn_data" / "wn.db")

    def install(text: str) -> str:
        wn.add(write_lines(tmp_path / "to_install.xml", text), progress_handler=None)
        return "made-up:1.0"

    return install


@pytest.mark.parametrize("name", ["wn.xml", "wn.xml.gz", "installed"])
def test_lemmas_come_in_file_order_with_blanks(name: str, tmp_path: Path, install: Callable[[str], str]) -> None:
    text = lmf(lexicon("fr", {"1": ["chat", "matou"], "2": ["pomme_de_terre"], "3": ["matou", "a+b"]}))
    wordnet = install(text) if name == "installed" else write_lines(tmp_path / name, text)
    assert lemmas(wordnet, "fr") == ["chat", "matou", "pomme de terre", "ab"]
    (header,) = read_headers(str(wordnet))
    assert (header.name, header.lang, header.licence) == ("Made up 1.0", "fr", "CC BY 4.0")


@pytest.mark.parametrize(("members", "version"), [(True, "1.1"), (False, "1.0")])
@pytest.mark.parametrize("form", ["file", "installed"])
def test_english_takes_first_lemma_of_each_synset_lower_cased(
    form: str, members: bool, version: str, tmp_path: Path, install: Callable[[str], str]
) -> None:
    text = lmf(lexicon("en", ENGLISH, members=members), version=version)
    wordnet = install(text) if form == "installed" else write_lines(tmp_path / "wn.xml", text)
    assert lemmas(wordnet, "en") == ["new york", "cat", "big apple"]


def test_members_may_be_in_another_order_than_entries(tmp_path: Path) -> None:
    text = lmf(lexicon("en", {"1": ["b", "a"], "2": ["a", "c"]}))
    assert lemmas(write_lines(tmp_path / "wn.xml", text), "en") == ["b", "a"]


def test_file_of_several_languages_gives_only_lemmas_of_one(tmp_path: Path) -> None:
    lemma_of = {"sq": "mace", "de": "Katze", "als": "qen"}
    text = lmf(*(lexicon(lang, {"1": [lemma]}, name=lang) for lang, lemma in lemma_of.items()))
    path = write_lines(tmp_path / "wn.xml", text)
    assert lemmas(path, "sq") == ["mace", "qen"]
    with pytest.raises(BadShard, match=r"WordNet of sq \(Made up\), de \(Made up\), sq \(Made up\), not of fr"):
        lemmas(path, "fr")


def test_codes_of_wordnets_map_to_ours() -> None:
    theirs = ("als", "sq", "cmn-Hans", "arb", "nb", "nno", "zsm", "pt-BR", "pes", "id", "swh", "art-x-made")
    assert [our_code(code) for code in theirs] == [
        "sq", "sq", "zh", "ar", "no", "nn", "ms", "pt", "fa", "id", "sw", None,
    ]  # fmt: skip


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
WHOLE = lmf(lexicon("da", {"1": ["kat"], "2": ["hund"]}))


def with_doctype(doctype: str) -> str:
    lines = WHOLE.splitlines()
    return "\n".join([lines[0], doctype, *lines[2:]])


BROKEN = {
    "no lemma": (lmf(lexicon("da", {})), "no lemma"),
    "no lexicon": (lmf(), "WordNet of no language"),
    "wrong language": (lmf(lexicon("sv", {"1": ["katt"]})), r"WordNet of sv \(Made up\), not of da"),
    "cut": (WHOLE[:-60], "not a whole WN-LMF file"),
    "another XML": ("<feed></feed>", "not a whole WN-LMF file"),
    "no XML": ("<html>404", "not a whole WN-LMF file"),
    "without a licence": (WHOLE.replace('license="CC BY 4.0"', ""), "missing required attribute: license"),
    "billion laughs": (with_doctype(BOMB), "declares XML entities"),
    "external entity": (with_doctype(EXTERNAL), "declares XML entities"),
}


@pytest.mark.parametrize("name", ["wn.xml", "wn.xml.gz"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_bad_shard_with_reason(case: str, name: str, tmp_path: Path) -> None:
    text, message = BROKEN[case]
    path = write_lines(tmp_path / name, text)
    with pytest.raises(BadShard, match=message) as caught:
        lemmas(path, "da")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [5, -9])
def test_truncated_gzip_is_bad_shard(tmp_path: Path, cut: int) -> None:
    path = write_lines(tmp_path / "wn.xml.gz", WHOLE)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadShard, match="cannot be decompressed"):
        lemmas(path, "da")


def recipe(**wordnets: Any) -> Recipe:
    return entry_lists.recipe(sorted(wordnets), sources=["number", "wordnet"], wordnets=wordnets)


def test_several_wordnets_are_joined_in_order_with_licences_in_manifest(
    tmp_path: Path, install: Callable[[str], str]
) -> None:
    tab = write_lines(
        tmp_path / "wn-data-dan.tab", "# DanNet\tdan\thttp://x\twordnet", "1-n\tlemma\thund", "2-n\tlemma\tko"
    )
    xml = write_lines(tmp_path / "wn.xml", WHOLE)
    install(lmf(lexicon("da", {"1": ["hest", "ko"]})))
    loaded = recipe(da=[str(tab), str(xml), "made-up:1.0"])
    build(loaded, tmp_path / "run")
    assert words(tmp_path / "run", "da")[100:] == ["hund", "ko", "kat", "hest"]
    manifest = manifest_of(tmp_path / "run")
    rules, sources = manifest["rules"]["da"]["wordnet"], manifest["sources"]["da"]
    assert (rules["in"], rules["kept"], rules["duplicate"]) == (6, 4, 2)
    named = [(source["name"], source["licence"]) for source in sources]
    assert named == [("DanNet", "wordnet"), ("Made up 1.0", "CC BY 4.0"), ("Made up 1.0", "CC BY 4.0")]
    assert (sources[1]["file"], len(sources[1]["sha256"]), sources[2]["lexicon"]) == ("wn.xml", 64, "made-up:1.0")
    assert manifest["config"]["metadata"]["wordnets"] == {"da": [str(tab), str(xml), "made-up:1.0"]}


def test_lexicon_that_is_not_installed_is_user_error(tmp_path: Path, install: Callable[[str], str]) -> None:
    install(lmf(lexicon("da", {"1": ["hest"]})))
    with pytest.raises(UserError, match=r"neither a file nor an installed lexicon \(installed: made-up:1\.0\)"):
        build(recipe(da="omw-da:1.4"), tmp_path / "run")


@pytest.mark.parametrize(("theirs", "lang"), [("dan", "da"), ("bul", "bg"), ("eng", "en")])
def test_real_wordnets_give_same_list_in_both_forms(theirs: str, lang: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/omw" / ("rebuilt" if theirs == "eng" else "")
    tab = folder / f"wn-data-{theirs}.tab.gz"
    synsets: dict[str, list[str]] = {}
    with gzip.open(tab, "rt", encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            if len(fields) == 3 and fields[1].endswith("lemma") and len(synsets) < 3000:
                synsets.setdefault(fields[0], []).append(fields[2].replace("&", "").replace('"', "").replace("<", ""))
    lines = [f"# x\t{theirs}\tu\tl", *(f"{s}\t{theirs}:lemma\t{w}" for s, ws in synsets.items() for w in ws)]
    plain = write_lines(tmp_path / "wn.tab", *lines)
    xml = write_lines(
        tmp_path / "wn.xml", lmf(lexicon(theirs, {s: list(dict.fromkeys(ws)) for s, ws in synsets.items()}))
    )
    configs = [MetadataConfig(sources=("wordnet",), wordnets={lang: str(path)}) for path in (plain, xml)]
    lists = [list(build_entries(Inputs(lang=lang, config=config)).entries) for config in configs]
    assert lists[0] == lists[1]
    assert len(lists[0]) > 1000


def test_one_download_of_wn_gives_each_language_the_papers_lexicon(
    server: Server, tmp_path: Path, install: Callable[[str], str]
) -> None:
    """The archive of `python -m wn download omw:2.0` has several lexicons of English and of Italian."""
    lemmas_of = {("omw-fr", "fr"): "chat", ("omw-zsm", "zsm"): "kucing", ("omw-it", "it"): "gatto",
                 ("omw-iwn", "it"): "micio", ("omw-en", "en"): "cat", ("omw-en15", "en"): "Moggy"}  # fmt: skip
    members = {
        f"omw-2.0/{name}/{name}.xml": lmf(lexicon(lang, {"1": [lemma]}, name=name)).encode()
        for (name, lang), lemma in lemmas_of.items()
    }
    server.files["/omw-2.0.tar.xz"] = tar_of(members, "w:xz")
    wn.download(f"{server.url}/omw-2.0.tar.xz", progress_handler=None)
    install(lmf(lexicon("it", {"1": ["micione"]}, name="own")))
    codes = ["en", "fr", "it", "ms"]
    build(entry_lists.recipe(codes, sources=["wordnet"], installed_wordnets=True), tmp_path / "run")
    lists = {lang: words(tmp_path / "run", lang) for lang in codes}
    assert lists == {"en": ["cat"], "fr": ["chat"], "it": ["gatto", "micione"], "ms": ["kucing"]}


def test_lexicons_of_the_paper_are_in_the_index_of_wn() -> None:
    assert len(OMW_LEXICONS) == 31
    archives = [wn.config.get_project_info(f"{name}:2.0")["resource_urls"][0] for name in OMW_LEXICONS.values()]
    assert [url.rpartition("/")[2] for url in archives] == [f"{name}-2.0.tar.xz" for name in OMW_LEXICONS.values()]
    assert wn.config.get_project_info("omw:2.0")["resource_urls"][0].endswith("/omw-2.0.tar.xz")


def test_installed_lexicons_are_read_where_the_recipe_names_none(tmp_path: Path, install: Callable[[str], str]) -> None:
    install(lmf(lexicon("da", {"1-n": ["hund"]})))
    tab = write_lines(tmp_path / "sv.tab", "# SALDO\tswe\thttp://x\tcc-by", "1-n\tlemma\thund")
    config = MetadataConfig(installed_wordnets=True, wordnets={"sv": str(tab)})
    expected = {"da": ("made-up:1.0",), "sv": (str(tab),), "fi": ()}
    assert {lang: WORDNET.wordnets(Inputs(lang=lang, config=config)) for lang in expected} == expected
    assert WORDNET.wordnets(Inputs(lang="da", config=MetadataConfig())) == ()
