"""WordNets from a local server: release archive with checksum, lexicons by choice, interrupted, hostile."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from served import Server, tar_of
from served import server as server  # the fixture
from stages import context, finish
from worldclip import metadata
from worldclip.config import Recipe, load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.errors import StageFailed, UserError
from worldclip.metadata.sources.wordnet import OMW_LEXICONS
from worldclip.tools import fetch_wordnets
from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata

wn = pytest.importorskip("wn")

ARCHIVE = "/omw-2.0.tar.xz"


def lmf(name: str, lang: str, *lemmas: str, version: str = "2.0", declaration: str = "") -> bytes:
    entries = "".join(
        f'<LexicalEntry id="e{n}"><Lemma writtenForm="{lemma}" partOfSpeech="n"/><Sense id="s{n}" synset="x{n}"/>'
        "</LexicalEntry>"
        for n, lemma in enumerate(lemmas)
    )
    synsets = "".join(f'<Synset id="x{n}" ili="" partOfSpeech="n"/>' for n, _ in enumerate(lemmas))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd"{declaration}>
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
<Lexicon id="{name}" label="{name}" language="{lang}" email="a@b.c" license="CC BY 4.0" version="{version}">
{entries}{synsets}</Lexicon></LexicalResource>""".encode()


RELEASE = {
    "omw-2.0/omw-fr/omw-fr.xml": lmf("omw-fr", "fr", "chat", "chien"),
    "omw-2.0/omw-fr/LICENSE": b"CeCILL-C",
    "omw-2.0/omw-zsm/omw-zsm.xml": lmf("omw-zsm", "zsm", "kucing"),
    "omw-2.0/omw-it/omw-it.xml": lmf("omw-it", "it", "gatto"),
    "omw-2.0/omw-iwn/omw-iwn.xml": lmf("omw-iwn", "it", "micio"),
    "omw-2.0/omw-en15/omw-en15.xml": lmf("omw-en15", "en", "cat"),
}


def recipe(folder: Path, *codes: str, **values: Any) -> Recipe:
    sources = {"sources": ["wordnet"], "dumps": str(folder / "dumps")}
    return load_recipe({
        "pool": {"path": "."}, "balance": {"tail_fraction": 0.1}, "languages": {"codes": list(codes)},
        "metadata": {**sources, **values},
    })  # fmt: skip


@pytest.fixture
def release(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server has a small release of the Open Multilingual Wordnet, whose checksum is known."""
    server.files[ARCHIVE] = tar_of(RELEASE, "w:xz")
    sha256 = hashlib.sha256(server.files[ARCHIVE]).hexdigest()
    url, _ = fetch_wordnets.PINNED["omw:2.0"]
    monkeypatch.setitem(fetch_wordnets.PINNED, "omw:2.0", (url, sha256))
    return server


def fetch(server: Server, loaded: Recipe, **values: Any) -> dict[str, int]:
    config = FetchConfig(wordnet_mirror=server.url, base_url=server.url, **values)
    return fetch_metadata(context(loaded, Path()), config, pause=lambda seconds: None)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_release_is_downloaded_once_and_the_stage_uses_the_papers_lexicons(release: Server, tmp_path: Path) -> None:
    loaded = recipe(tmp_path, "fr", "it", "ms", "sw")
    assert fetch(release, loaded)["files"] == 1
    assert files_below(tmp_path / "dumps/wordnets") == [
        "fr/omw-fr-2.0.xml.gz", "it/omw-it-2.0.xml.gz", "ms/omw-zsm-2.0.xml.gz", "omw-2.0.json", "omw-2.0.tar.xz",
    ]  # fmt: skip
    record = read_json(tmp_path / "dumps/wordnets/omw-2.0.json")
    assert record["sha256"] == hashlib.sha256(release.files[ARCHIVE]).hexdigest()
    assert record["lexicons"][0] == {
        "lang": "fr", "id": "omw-fr", "version": "2.0", "label": "omw-fr", "license": "CC BY 4.0",
        "file": "fr/omw-fr-2.0.xml.gz",
    }  # fmt: skip
    assert fetch(release, loaded) == {"files": 0, "bytes": 0, "there_already": 1}
    loaded = recipe(tmp_path, "fr", "it", "ms")
    finish("metadata", loaded, tmp_path / "run")
    assert metadata.read_entries(tmp_path / "run", "fr")["entry"].to_pylist() == ["chat", "chien"]
    assert metadata.read_entries(tmp_path / "run", "it")["entry"].to_pylist() == ["gatto"]


def test_release_is_left_out_where_no_language_needs_it(release: Server, tmp_path: Path) -> None:
    (tmp_path / "fr.tab").write_text("# X\tfra\turl\tfree\n1-n\tfra:lemma\tchat\n")
    for loaded, values in (
        (recipe(tmp_path, "sw"), {}),
        (recipe(tmp_path, "fr", wordnets={"fr": str(tmp_path / "fr.tab")}), {}),
        (recipe(tmp_path, "fr", sources=["number"]), {}),
        (recipe(tmp_path, "fr"), {"wordnets": ("none",)}),
    ):
        assert fetch(release, loaded, **values)["files"] == 0
    assert release.requests == []


def test_interrupted_release_is_resumed_and_a_wrong_checksum_is_refused(release: Server, tmp_path: Path) -> None:
    whole, loaded = release.files[ARCHIVE], recipe(tmp_path, "fr")
    (tmp_path / "dumps/wordnets").mkdir(parents=True)
    (tmp_path / "dumps/wordnets/omw-2.0.tar.xz.part").write_bytes(whole[:100])
    release.cut[ARCHIVE] = 50
    fetch(release, loaded)
    assert [wanted for _, wanted in release.requests] == ["bytes=100-", "bytes=150-"]
    assert (tmp_path / "dumps/wordnets/omw-2.0.tar.xz").read_bytes() == whole
    other = tmp_path / "other"
    release.files[ARCHIVE] = tar_of({"omw-2.0/omw-fr/omw-fr.xml": lmf("omw-fr", "fr", "autre")}, "w:xz")
    with pytest.raises(StageFailed, match=r"omw-2\.0\.tar\.xz: .*its SHA-256 is [0-9a-f]{64}, the published one"):
        fetch(release, recipe(other, "fr"))
    assert files_below(other) == []


def test_killed_unpacking_is_done_again_without_a_download(
    release: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, write = recipe(tmp_path, "fr"), fetch_wordnets.write_json
    monkeypatch.setattr(fetch_wordnets, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fetch(release, loaded)
    monkeypatch.setattr(fetch_wordnets, "write_json", write)
    assert fetch(release, loaded)["files"] == 0
    (tmp_path / "dumps/wordnets/fr/omw-fr-2.0.xml.gz").unlink()
    assert fetch(release, loaded)["files"] == 0
    assert (tmp_path / "dumps/wordnets/fr/omw-fr-2.0.xml.gz").exists()
    assert len(release.requests) == 1


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects in the index of wn; the mirror stands for their servers."""
    for name, archive in (("gut", "gut-1.4.tar.gz"), ("plain", "plain.xml.gz"), ("odd", "odd.zip")):
        monkeypatch.setitem(wn.config._projects, name, {
            "type": "wordnet", "label": name, "language": "de", "license": "CC BY 4.0", "error": None,
            "versions": {"1.4": {"resource_urls": [f"http://example.org/{archive}"], "error": None}},
        })  # fmt: skip


@pytest.mark.usefixtures("indexed")
def test_lexicons_by_choice_come_from_the_index_of_wn(release: Server, tmp_path: Path) -> None:
    release.files["/gut-1.4.tar.gz"] = tar_of({"a/b.xml": lmf("gut", "de", "Katze", version="1.4")}, "w:gz")
    release.files["/plain.xml.gz"] = gzip.compress(lmf("plain", "sw", "paka", version="1"))
    fetch(release, recipe(tmp_path, "fr", "de", "sw"), wordnets=("omw:2.0", "gut:1.4", "plain:1.4"))
    lexicons = [name for name in files_below(tmp_path / "dumps/wordnets") if "/" in name]
    assert [*lexicons] == [
        "de/gut-1.4.xml.gz", "fr/omw-fr-2.0.xml.gz", "it/omw-it-2.0.xml.gz", "ms/omw-zsm-2.0.xml.gz",
        "sw/plain-1.xml.gz",
    ]  # fmt: skip
    with pytest.raises(UserError) as caught:
        fetch(release, recipe(tmp_path, "de"), wordnets=("gut:9", "unknown:1", "odd:1.4"))
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "--wordnets gut",
        "--wordnets unknown",
        "--wordnets odd",
    ]
    with pytest.raises(UserError, match="--wordnet-mirror"):
        fetch_metadata(context(recipe(tmp_path, "de"), Path()), FetchConfig(wordnet_mirror="ftp://x"))


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


BOMB = ' [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]'
HOSTILE = {
    "entities": (archive_of(member("a.xml", lmf("gut", "de", declaration=BOMB))), "declares XML entities"),
    "path in the id": (archive_of(member("a.xml", lmf("../../gut", "de"))), "no WN-LMF file of a known language"),
    "path in the version": (archive_of(member("a.xml", lmf("gut", "de", version="/1"))), "no WN-LMF file of a known"),
    "unknown language": (archive_of(member("a.xml", lmf("gut", "mul"))), "no WN-LMF file of a known language"),
    "no XML": (archive_of(member("a.xml", b"<html>")), "no WN-LMF file of a known language"),
    "link": (archive_of(member("a.xml", type=tarfile.SYMTYPE, linkname="/etc/passwd")), "no WN-LMF file"),
    "sparse": (archive_of(member("a.xml", type=tarfile.GNUTYPE_SPARSE)), "no WN-LMF file"),
    "large header": (archive_of(member("x", bytes(2**20 + 1), type=tarfile.XHDTYPE)), "header of 1,048,577 bytes"),
    "large member that is skipped": (archive_of(member("x", bytes(5 * 2**20))), "unpacks to more than 4,194,304 bytes"),
    "large lexicon": (archive_of(member("a.xml", lmf("gut", "de") + b" " * 2**21)), "a lexicon of more than 1,048,576"),
    "many members": (archive_of(*(member(f"{n}.txt") for n in range(30))), "more than 20 members"),
    "truncated": (archive_of(member("a.xml", lmf("gut", "de")))[:-20], "ended before|end of"),
    "no archive": (b"<html>not found</html>", "ot a gzip"),
}


@pytest.mark.usefixtures("indexed")
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archive_writes_nothing_outside_and_is_downloaded_again(
    case: str, release: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in (("UNPACKED_BYTES", 2**22), ("LEXICON_BYTES", 2**20), ("MEMBERS", 20)):
        monkeypatch.setattr(fetch_wordnets, f"MAX_{name}", limit)
    release.files["/gut-1.4.tar.gz"], message = HOSTILE[case]
    loaded = recipe(tmp_path / "inside", "fr", "de")
    with pytest.raises(StageFailed, match=message) as caught:
        fetch(release, loaded, wordnets=("omw:2.0", "gut:1.4"))
    assert len(caught.value.failures) == 1
    assert (tmp_path / "inside/dumps/wordnets/fr/omw-fr-2.0.xml.gz").exists(), "the other archive is unpacked"
    assert not list(tmp_path.rglob("*gut*"))
    assert not list(tmp_path.rglob("*.tmp"))
    release.files["/gut-1.4.tar.gz"] = archive_of(member("../../../x.xml", lmf("gut", "de", "Katze", version="1.4")))
    fetch(release, loaded, wordnets=("omw:2.0", "gut:1.4"))
    assert (tmp_path / "inside/dumps/wordnets/de/gut-1.4.xml.gz").exists()
    assert not list(tmp_path.rglob("x.xml"))


def test_lexicons_of_the_paper_are_in_the_index_of_wn() -> None:
    """31 languages; the checksum is of the archive that the index names."""
    assert len(OMW_LEXICONS) == 31
    for name in OMW_LEXICONS.values():
        assert wn.config.get_project_info(f"{name}:2.0")["resource_urls"][0].endswith(f"/{name}-2.0.tar.xz")
    url, sha256 = fetch_wordnets.PINNED["omw:2.0"]
    assert wn.config.get_project_info("omw:2.0")["resource_urls"] == [url]
    assert len(sha256) == 64
