"""CLDR's archive from a local server: whole, interrupted, cut, of another version, hostile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from miniature import write_files
from served import Server
from served import server as server  # the fixture
from tars import zip_of
from world_parts import write_xml
from worldclip.core.artifacts import read_json
from worldclip.core.errors import StageFailed, UserError
from worldclip.plugins.world import fetch_cldr as module
from worldclip.plugins.world.cldr import read_cldr
from worldclip.plugins.world.fetch_cldr import fetch_cldr

ARCHIVE = "/unicode.org/Public/cldr/48/core.zip"
DTD = '<!ATTLIST version cldrVersion CDATA #FIXED "{}" >'


@pytest.fixture
def members(tmp_path) -> dict[str, str | bytes]:
    """The members of a small archive in CLDR's layout."""
    for locale, name in (("en", "red apple"), ("de", "roter Apfel")):
        for is_derived in (False, True):
            write_xml(tmp_path / "source", locale, {"\U0001f34e": (name, ["fruit"])}, derived=is_derived)
    paths = sorted((tmp_path / "source").rglob("*.xml"))
    files = {f"common/{path.relative_to(tmp_path / 'source').as_posix()}": path.read_bytes() for path in paths}
    other = {"common/main/de.xml": "<ldml/>", "common/annotations/README": "x", "unicode-license.txt": "x"}
    return {**files, "common/dtd/ldml.dtd": DTD.format("48"), **other}


def fetch(server: Server, out: Path, version: str = "48") -> dict[str, int]:
    return fetch_cldr(out, version=version, mirror=server.url, pause=lambda seconds: None)


def test_annotations_alone_are_unpacked_for_the_pool(server, members, tmp_path):
    server.files[ARCHIVE] = zip_of(members)
    out = tmp_path / "cldr"
    assert fetch(server, out) == {"files": 4, "bytes": len(server.files[ARCHIVE]), "there_already": 0}
    below = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    derived = [f"annotationsDerived/{lang}.xml" for lang in ("de", "en")]
    assert below == ["annotations/de.xml", "annotations/en.xml", *derived, "fetched.json", "ldml.dtd"]
    part = read_cldr(out, {"1F34E"})
    assert (part.version, len(part.texts), part.problems) == ("48", 2, {})
    record = read_json(out / "fetched.json")
    assert (record["version"], record["files"], len(record["sha256"])) == ("48", 4, 64)
    assert fetch(server, out) == {"files": 0, "bytes": 0, "there_already": 4}
    assert len(server.requests) == 1
    with pytest.raises(UserError, match="holds CLDR 48; choose another folder for 47"):
        fetch(server, out, "47")


def test_archive_that_was_fetched_but_not_unpacked_is_not_fetched_again(server, members, tmp_path):
    (tmp_path / "cldr" / ".unpacked" / "annotations").mkdir(parents=True)  # a call that was killed
    (tmp_path / "cldr" / ".unpacked" / "annotations" / "xx.xml").write_text("<ldml")
    (tmp_path / "cldr" / "core-48.zip").write_bytes(zip_of(members))
    assert fetch(server, tmp_path / "cldr")["files"] == 4
    assert not server.requests
    assert not (tmp_path / "cldr" / "annotations" / "xx.xml").exists()


def test_archive_that_a_killed_call_left_goes_with_the_next(server, members, tmp_path):
    server.files[ARCHIVE] = zip_of(members)
    out = tmp_path / "cldr"
    fetch(server, out)
    (out / "core-48.zip").write_bytes(b"killed after the record was written")
    (out / "core-47.zip.part").touch()
    (out / ".unpacked").mkdir()
    assert fetch(server, out)["there_already"] == 4
    assert not [path for path in out.iterdir() if path.name.startswith(("core-", ".unpacked"))]


def damaged(whole: bytes) -> bytes:
    """Return an archive with zeros in a member's compressed bytes."""
    start = whole.index(b"common/annotations/de.xml") + 40
    return whole[:start] + bytes(20) + whole[start + 20 :]


Members = dict[str, str | bytes]
BROKEN: dict[str, tuple[Callable[[Members], bytes], str]] = {
    "half": (lambda members: zip_of(members)[: len(zip_of(members)) // 2], "not a zip file"),
    "damaged member": (lambda members: damaged(zip_of(members)), "core-48.zip"),
    "other version": (lambda members: zip_of({**members, "common/dtd/ldml.dtd": DTD.format("46")}), "46, not 48"),
    "no annotations": (lambda members: zip_of({"common/main/de.xml": "<ldml/>"}), "holds no annotations"),
    **{
        name: (lambda members, name=name: zip_of({**members, name: "<ldml/>"}), "no path below")
        for name in (
            "../../annotations/evil.xml",
            "/common/annotations/evil.xml",
            "common\\annotations\\..\\evil.xml",
        )
    },
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_archive_is_refused_and_a_whole_one_then_accepted(case, server, members, tmp_path):
    make, reason = BROKEN[case]
    server.files[ARCHIVE] = make(members)
    out = tmp_path / "a" / "cldr"
    refused_as_broken(server, out, reason)
    assert not list(tmp_path.rglob("evil.xml"))
    server.files[ARCHIVE] = zip_of(members)
    assert fetch(server, out)["files"] == 4


def refused_as_broken(server: Server, out: Path, reason: str) -> None:
    with pytest.raises(StageFailed, match=reason):
        fetch(server, out)
    assert not [path for path in out.rglob("*") if path.is_file()]  # nothing that a pool would read


def test_annotations_of_others_stay(server, members, tmp_path):
    server.files[ARCHIVE] = zip_of(members)
    write_files(tmp_path, {"annotations/instances.json": "of COCO"})
    with pytest.raises(UserError, match="holds 'annotations', which would be replaced"):
        fetch(server, tmp_path)
    assert not server.requests
    assert [path.name for path in tmp_path.rglob("*.json")] == ["instances.json"]


def test_sizes_are_those_that_come_out(server, members, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10_000)
    server.files[ARCHIVE] = zip_of({**members, "common/annotations/xx.xml": bytes(1_000_000)})
    refused_as_broken(server, tmp_path / "cldr", "unpacks to more than 10,000 bytes")
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    refused_as_broken(server, tmp_path / "cldr", "more than 3 members")


def test_missing_version_and_no_version_are_one_line(server, tmp_path):
    with pytest.raises(UserError, match="must be a number"):
        fetch(server, tmp_path, "../48")
    with pytest.raises(StageFailed, match="404"):
        fetch(server, tmp_path, "99")
