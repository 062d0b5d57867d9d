"""Packs: lists come back as they were; anything that is not as it was packed is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

import entry_lists
import worldclip
from entry_lists import QUIET, build, manifest_of, scores, words, write_lists
from killed import modified
from miniature import write_files
from plain_recipe import LISTS, make_recipe, make_shards, write_pool
from pools import read_tar
from served import static_host
from stages import run_stage
from tars import write_tar
from toy import markdown_rows
from worldclip import metadata
from worldclip.cli import main
from worldclip.config import Recipe, load_recipe
from worldclip.core.artifacts import digest
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.settings import to_toml
from worldclip.metadata.sources.pack import open_pack
from worldclip.report.sources import sources_table
from worldclip.tools.pack import pack, unpack


def recipe(codes: Sequence[str] = (), profile: str = "unicode", **config: Any) -> Recipe:
    return entry_lists.recipe(codes, {"match": {"profile": profile}}, **config)


@pytest.fixture(scope="module")
def packed_run(tmp_path_factory) -> Path:
    """A run with a list of Swahili and one of Thai, a licence for the first, and a dead entry."""
    folder = tmp_path_factory.mktemp("packed")
    lists = write_lists(folder, sw=["simba\t3", "paka mweusi\t2", "caf\u00e9", "cafe\u0301"], th=["แมว", "หมา"])
    config = {"sources": ["number", "list"], "lists": lists, "licences": {"sw": "CC BY 4.0"}}
    build(recipe(["sw", "th"], "reference", **config), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def packed(packed_run) -> Path:
    pack(packed_run, packed_run.parent / "lists.tar")
    return packed_run.parent / "lists.tar"


def test_unpacked_lists_equal_packed_lists(packed_run, packed, tmp_path):
    report = unpack(str(packed), tmp_path / "run", QUIET)
    for lang in ("sw", "th"):
        name = f"metadata/{lang}.parquet"
        assert (tmp_path / "run" / name).read_bytes() == (packed_run / name).read_bytes()
    there, here = manifest_of(packed_run), manifest_of(tmp_path / "run")
    assert here["digests"] == there["digests"]
    assert here["rules"] == there["rules"]
    assert here["sources"]["sw"][1:] == there["sources"]["sw"]
    assert here["sources"]["sw"][0]["source"] == "pack"
    assert here["sources"]["sw"][1]["licence"] == "CC BY 4.0"
    assert report["lists"]["sw"]["by_source"] == {"number": 100, "list": 4}
    matcher = metadata.load_matcher(tmp_path / "run", "sw", "reference")
    assert matcher.match("paka mweusi na simba").tolist() == [100, 101]
    page = (tmp_path / "run/LICENCES.md").read_text()
    assert "**CC BY 4.0**: sw" in page
    assert "**not stated in the file**: th" in page


def test_same_lists_give_same_bytes(packed_run, packed, tmp_path):
    report = pack(packed_run, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == packed.read_bytes()
    assert report == {
        "file": str(tmp_path / "again.tar"),
        "lists": 2,
        "entries": 206,
        "bytes": packed.stat().st_size,
        "licences": {"CC BY 4.0": ["sw"], "not stated in the file": ["th"]},
    }
    unpack(str(packed), tmp_path / "run", QUIET)
    pack(tmp_path / "run", tmp_path / "repacked.tar")
    assert set(open_pack(tmp_path / "repacked.tar").lists) == {"sw", "th"}


def test_recipe_with_pack_finds_unpacked_stage_finished(packed, tmp_path, capsys):
    run_dir = tmp_path / "run"
    unpack(str(packed), run_dir, QUIET)
    mine = recipe(["sw", "th"], "reference", pack=str(packed))
    assert not run_stage("metadata", mine, run_dir, QUIET)
    before = (run_dir / "metadata/sw.parquet").stat().st_mtime_ns
    other_profile = recipe(["sw"], pack=str(packed))
    assert run_stage("metadata", other_profile, run_dir, QUIET)
    assert (run_dir / "metadata/sw.parquet").stat().st_mtime_ns == before
    assert not (run_dir / "metadata/th.parquet").exists()
    assert metadata.load_matcher(run_dir, "sw", "unicode").match("Simba, simba!").tolist() == [100]
    assert main(["run", str(run_dir), "--until", "metadata"]) == 2  # what to match is still to be said
    assert "set exactly one of path, roots and build; now set: none" in capsys.readouterr().err


def test_recipe_without_languages_takes_those_of_its_pack(packed, tmp_path):
    build(recipe(pack=str(packed)), tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    assert sorted(manifest["counts"]) == ["sw", "th"]
    rows = markdown_rows(sources_table(manifest))
    assert ("pack", "lists.tar", "of its sources, in this table", "sw, th") in rows
    assert ("list", "sw.txt", "CC BY 4.0", "sw") in rows
    assert ("list", "th.txt", "not stated in the file", "th") in rows


def test_packed_and_own_lists_combine(packed, tmp_path):
    config = {"sources": ["number", "list"], "pack": str(packed)}
    own = write_lists(tmp_path, yo=["kìnnìún"])
    build(recipe(["sw", "yo"], lists=own, **config), tmp_path / "run")
    assert words(tmp_path / "run", "yo")[100:] == ["kìnnìún"]
    assert list(scores(tmp_path / "run", "sw").values())[100:102] == [3.0, 2.0]
    for codes, lists, message in (
        (["sw"], {"sw": own["yo"]}, r"metadata\.lists\.sw is set, and .*lists\.tar already has the list of sw"),
        (["am", "sw"], {}, r"no source has words of am.*nor has .*lists\.tar a list"),
    ):
        with pytest.raises(UserError, match=message):
            build(recipe(codes, lists=lists, **config), tmp_path / "run")


def test_new_pack_rebuilds_only_changed_lists(packed_run, packed, tmp_path):
    copy = tmp_path / "lists.tar"
    copy.write_bytes(packed.read_bytes())
    loaded = recipe(["sw", "th"], pack=str(copy))
    build(loaded, tmp_path / "run")
    before = modified(tmp_path / "run/metadata", "*.parquet")
    lists = write_lists(tmp_path, sw=["simba"]) | {"th": str(packed_run.parent / "th.txt")}
    build(recipe(["sw", "th"], sources=["number", "list"], lists=lists), tmp_path / "changed")
    pack(tmp_path / "changed", copy)
    build(loaded, tmp_path / "run")
    after = modified(tmp_path / "run/metadata", "*.parquet")
    assert {path.stem for path in after if after[path] == before[path]} == {"th"}
    assert len(words(tmp_path / "run", "sw")) == 101


def test_unpack_refuses_folder_of_another_run(packed, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.toml").write_text(to_toml(recipe(["en"])))
    with pytest.raises(UserError, match="holds a run with lists of its own; unpack into another folder"):
        unpack(str(packed), tmp_path / "run", QUIET)
    assert "en" in (tmp_path / "run/recipe.toml").read_text()


def test_unpack_refuses_a_folder_whose_files_it_would_remove(packed, tmp_path):
    write_files(tmp_path, {"metadata/mine.csv": "mine"})
    with pytest.raises(UserError, match="is no run and holds a folder 'metadata'"):
        unpack(str(packed), tmp_path, QUIET)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.csv"]


def test_only_finished_unchanged_stage_is_packed(packed_run, tmp_path):
    with pytest.raises(UserError, match=r"does not exist; give .* the folder of a run"):
        pack(tmp_path / "run", tmp_path / "x.tar")
    write_files(tmp_path, {"run/recipe.toml": (packed_run / "recipe.toml").read_text()})
    with pytest.raises(UserError, match="run first: worldclip metadata"):
        pack(tmp_path / "run", tmp_path / "x.tar")
    shutil.copytree(packed_run / "metadata", tmp_path / "run/metadata")
    manifest = manifest_of(tmp_path / "run")
    manifest["digests"]["th"] = "0" * 64
    (tmp_path / "run/metadata/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"th\.parquet: changed after it was written"):
        pack(tmp_path / "run", tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


# --- what is not as it was packed -------------------------------------------------------------------------------------


def sealed(record: dict[str, Any]) -> bytes:
    """A record with the digest that fits it, as someone who means ill would write."""
    body = {key: value for key, value in record.items() if key != "digest"}
    return json.dumps({**body, "digest": digest(body)}).encode()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


Forge = Callable[[dict[str, bytes]], dict[str, Any]]


def with_record(change: Callable[[dict[str, Any]], None]) -> Forge:
    def forge(members: dict[str, bytes]) -> dict[str, Any]:
        record = json.loads(members["pack.json"])
        change(record)
        return {**members, "pack.json": sealed(record)}

    return forge


def unknown_language(record: dict[str, Any]) -> None:
    record["lists"]["../../sw"] = record["lists"].pop("sw")


FORGED: dict[str, tuple[Forge, str]] = {
    "path that climbs": (lambda m: {**m, "../evil.txt": b"x"}, r"'\.\./evil\.txt' is not named in pack\.json"),
    "absolute path": (lambda m: {**m, "/tmp/evil.txt": b"x"}, "is not named in pack.json"),
    "one more member": (lambda m: {**m, "de.parquet": b"x"}, "'de.parquet' is not named in pack.json"),
    "symbolic link": (lambda m: {**m, "sw.parquet": link("sw.parquet", "/etc/passwd")}, "not a plain file"),
    "hard link": (lambda m: {**m, "sw.parquet": link("sw.parquet", "th.parquet", tarfile.LNKTYPE)}, "not a plain file"),
    "language that climbs": (with_record(unknown_language), r"unknown languages \.\./\.\./sw"),
    "member missing": (lambda m: {k: v for k, v in m.items() if k != "th.parquet"}, "ends before th.parquet"),
    "other size": (lambda m: {**m, "th.parquet": m["th.parquet"] + b"x"}, "does not have the size"),
    "changed record": (lambda m: {**m, "pack.json": m["pack.json"].replace(b"CC BY 4.0", b"CC0 1.0 x")}, "the digest"),
    "record last": (lambda m: dict(reversed(m.items())), "first member is not pack.json"),
    "record of no pack": (with_record(lambda r: r.update(format="x")), "its format is 'x'"),
    "newer": (with_record(lambda r: r.update(version=2)), "packed by a newer worldclip"),
    "record is no object": (lambda m: {**m, "pack.json": b"[1]"}, "not a whole pack"),
    "record nested too deeply": (lambda m: {**m, "pack.json": b"[" * 2000}, r"pack\.json in it is not JSON"),
    "record without lists": (with_record(lambda r: r.pop("lists")), "not a whole pack"),
    "number for a section": (with_record(lambda r: r.update(match=5)), "not a whole pack"),
    "section without its keys": (with_record(lambda r: r.update(match=[])), "lacks match.profile, match.fold_case"),
    "page views that are no list": (with_record(lambda r: r.update(pageviews=None)), "lacks pageviews"),
    "list without rules": (with_record(lambda r: r["lists"]["sw"].pop("rules")), r"lacks sw\.rules"),
    "changed licences": (lambda m: {**m, "LICENCES.md": b"x" * len(m["LICENCES.md"])}, "does not have the SHA-256"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_pack_is_refused_before_anything_is_written(case, packed, tmp_path):
    forge, message = FORGED[case]
    path = write_tar(tmp_path / "forged.tar", forge(read_tar(packed)))
    with pytest.raises(UserError, match=message):
        unpack(str(path), tmp_path / "run", QUIET)
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.parent.glob("evil.txt"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_pack_is_refused(share, packed, tmp_path):
    data = packed.read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: int(share * (len(data) - 10_240))])  # a tar ends with empty blocks
    with pytest.raises(UserError, match="pack"):
        unpack(str(tmp_path / "cut.tar"), tmp_path / "run", QUIET)


def flip(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


def test_damaged_list_fails_alone_and_another_copy_finishes(packed, tmp_path):
    members = read_tar(packed)
    copy = write_tar(tmp_path / "lists.tar", {**members, "th.parquet": flip(members["th.parquet"])})
    with pytest.raises(StageFailed, match=r"th: .*th\.parquet does not have the SHA-256") as caught:
        unpack(str(copy), tmp_path / "run", QUIET)
    assert list(caught.value.failures) == ["th"]
    assert not (tmp_path / "run/metadata/manifest.json").exists()
    before = (tmp_path / "run/metadata/sw.parquet").stat().st_mtime_ns
    copy.write_bytes(packed.read_bytes())
    unpack(str(copy), tmp_path / "run", QUIET)
    assert (tmp_path / "run/metadata/sw.parquet").stat().st_mtime_ns == before


def test_invalid_list_with_right_hash_is_refused(packed, tmp_path):
    members = read_tar(packed)
    record = json.loads(members["pack.json"])
    swapped = {**members, "sw.parquet": members["th.parquet"]}
    size, sha256 = len(members["th.parquet"]), hashlib.sha256(members["th.parquet"]).hexdigest()
    record["lists"]["sw"] |= {"size": size, "sha256": sha256}
    copy = write_tar(tmp_path / "lists.tar", {**swapped, "pack.json": sealed(record)})
    with pytest.raises(StageFailed, match=r"sw\.parquet is not the list that pack\.json describes"):
        unpack(str(copy), tmp_path / "run", QUIET)


# --- from elsewhere ---------------------------------------------------------------------------------------------------


@pytest.fixture
def address(packed) -> Iterator[str]:
    """The folder of the pack behind a web server."""
    with static_host(packed.parent) as url:
        yield url


def test_pack_is_downloaded_and_kept_in_run(address, packed, tmp_path):
    unpack(f"{address}/lists.tar?download=1", tmp_path / "run", QUIET)
    assert (tmp_path / "run/lists.tar").read_bytes() == packed.read_bytes()
    assert load_recipe(tmp_path / "run", ["pool.path=.", "balance.tail_fraction=0.1"]).metadata.pack == str(
        tmp_path / "run/lists.tar"
    )
    with pytest.raises(StageFailed, match="404"):
        unpack(f"{address}/absent.tar", tmp_path / "other", QUIET)


def test_pack_of_another_address_is_not_taken_for_this_one(address, packed, tmp_path):
    unpack(f"{address}/lists.tar", tmp_path / "run", QUIET)
    unpack(f"{address}/lists.tar", tmp_path / "run", QUIET)
    with pytest.raises(UserError, match=r"run/lists\.tar came from another address; remove it"):
        unpack(f"{address}/./lists.tar", tmp_path / "run", QUIET)


def test_second_unpack_keeps_what_the_recipe_has_become(packed, tmp_path):
    out = tmp_path / "run"
    unpack(str(packed), out, QUIET)
    grown = (out / "recipe.toml").read_text() + '\n[pool]\npath = "/pool"\n\n[balance]\ntail_fraction = 0.1\n'
    (out / "recipe.toml").write_text(grown)
    unpack(str(packed), out, QUIET)
    assert (out / "recipe.toml").read_text() == grown


def test_pack_is_read_from_any_fsspec_url(packed, tmp_path):
    fsspec.filesystem("memory").pipe("/packs/lists.tar", packed.read_bytes())
    unpack("memory://packs/lists.tar", tmp_path / "run", QUIET)
    assert len(metadata.read_entries(tmp_path / "run", "sw")) == 104
    for place, error, message in (
        ("memory://packs/absent.tar", StageFailed, "absent"),
        ("nowhere://packs/lists.tar", UserError, "not a URL that can be read"),
        (str(tmp_path / "absent.tar"), UserError, "no such file"),
    ):
        with pytest.raises(error, match=message):
            unpack(place, tmp_path / "other", QUIET)


def test_url_in_metadata_pack_names_the_unpack_command(packed):
    for place, message in (
        ("https://example.org/lists.tar", r"fetch it first: worldclip unpack https://example\.org/lists\.tar"),
        ("absent.tar", r'metadata\.pack = "absent\.tar": no such file'),
    ):
        with pytest.raises(UserError, match=message):
            recipe(pack=place)


def test_pack_and_unpack_commands(packed_run, tmp_path, capsys):
    out = tmp_path / "lists.tar"
    assert main(["pack", str(packed_run), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "2 lists, 206 entries" in output
    assert "CC BY 4.0: sw" in output
    assert main(["unpack", str(out), "--out", str(tmp_path / "run"), "--workers", "1"]) == 0
    assert "2 lists, 206 entries" in capsys.readouterr().out


def test_run_continues_from_unpacked_lists(tmp_path, capsys):
    """The documented way: unpack, then run from match on with a recipe that names the pack."""
    write_pool(tmp_path / "pool", make_shards(seed=3, num_shards=1))
    lists = write_lists(tmp_path, **LISTS)
    first = make_recipe(tmp_path / "pool", metadata={"sources": ["list"], "lists": lists})
    worldclip.run(first, out=tmp_path / "first", until="curate", executor=QUIET)
    pack(tmp_path / "first", tmp_path / "lists.tar")
    unpack(str(tmp_path / "lists.tar"), tmp_path / "mine", QUIET)
    codes = sorted(LISTS)
    mine = make_recipe(tmp_path / "pool", languages={"codes": codes}, metadata={"pack": str(tmp_path / "lists.tar")})
    (tmp_path / "mine.toml").write_text(to_toml(mine))
    capsys.readouterr()
    command = ["run", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "mine"), "--workers", "1"]
    assert main([*command, "--from", "match", "--until", "curate"]) == 0
    assert "metadata  is finished and unchanged" in capsys.readouterr().err
    kept = [sorted((run / "curate").rglob("*.parquet")) for run in (tmp_path / "first", tmp_path / "mine")]
    assert kept[0]
    assert [path.read_bytes() for path in kept[0]] == [path.read_bytes() for path in kept[1]]


def test_the_english_list_of_version_1_is_packed_as_the_page_says(tmp_path, monkeypatch):
    """A pack of a JSON array gives English; another recipe builds the other language itself."""
    page = (Path(__file__).parents[2] / "docs" / "1_metadata.md").read_text()
    section = page.partition("## The English list of version 1")[2].partition("\n## ")[0]
    lines = [line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ") or not line]
    text = "\n".join(lines)
    monkeypatch.chdir(tmp_path)
    Path("english.toml").write_text(text[text.index("[pool]") : text.index("worldclip metadata")])
    published = ["0", "dog", "New York", "Dog", "na\u00efve", "C++", "dog", "!!!"]
    Path("metadata.json").write_text(json.dumps(published))
    for command in text[text.index("worldclip metadata") :].splitlines()[:2]:
        assert main(command.split()[1:]) == 0
    lists = write_lists(tmp_path, de=["Hund"])
    build(recipe(["en", "de"], pack="english.tar", sources=["list"], lists=lists), tmp_path / "run")
    assert words(tmp_path / "run", "en") == published[:6]
    assert words(tmp_path / "run", "de") == ["Hund"]
    sources = manifest_of(tmp_path / "run")["sources"]["en"]
    assert "CC-BY-NC-4.0" in json.dumps(sources), sources
