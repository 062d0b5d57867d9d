"""The exported page runs the model in headless Chromium, offline, and finds what `worldclip search` finds."""

import functools
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from chromium import DROP, open_page
from embedded_world import SHARDS, change_places, picture
from miniature import write_files
from programs import output_of
from served import static_host
from serving import data_url
from stages import QUIET
from toy import write_tar
from worldclip.core.errors import BadShard, UserError
from worldclip.export import ExportConfig, export_model
from worldclip.export.embedded import Embedded, open_embedded
from worldclip.plugins.browser import web_folder
from worldclip.tools.embed import embed
from worldclip.tools.search import search

QUERIES = ("a red apple", "красное яблоко", "赤いリンゴ", "قطة صغيرة", "แมวสองตัว")
KEYS = "[...document.querySelectorAll('.hit')].slice(0, 10).map((hit) => hit.dataset.key)"


@functools.cache
def export_web(embedded_world, precision):
    if list(web_folder.problems()):
        pytest.skip("transformers.js is not there; run: make web")
    config = ExportConfig(formats=("web",), onnx_precisions=(precision,), embedded=str(embedded_world / "embedded"))
    out = embedded_world.with_name(f"web_{precision}")
    return out / "web", export_model(embedded_world / "model", out, config)["formats"]["web"]


def test_the_page_takes_special_strings_out_of_a_query():
    texts = {"a </s> b": "a < /s> b", "a ＜/s＞ ﬁ": "a < /s> fi", "ﬁ ＜": "ﬁ ＜", "x|y": "xy"}
    for text, cleaned in texts.items():
        assert call_of_page("clean", text, "breakSpecials", specials=["</s>", "|"]) == cleaned


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "num_alike"), [("fp32", 10), ("int8", 9)])
def test_the_page_finds_what_search_finds_with_no_other_host(precision, num_alike, embedded_world):
    folder, report = export_web(embedded_world, precision)
    expected = search(embedded_world / "embedded", QUERIES, top=10)
    with static_host(folder) as address, open_page() as page:
        page.open(f"{address}/index.html", "document.body?.dataset.ready || document.querySelector('#state.bad')")
        for number, (query, result) in enumerate(zip(QUERIES, expected, strict=True), 1):
            page.run("document.querySelector('#text').value = ''; document.querySelector('#text').focus()")
            page.type(query)
            page.press("Enter", 13, "\r")
            page.wait(f"document.body.dataset.searches === '{number}'")
            keys = [hit["key"] for hit in result["hits"]]
            if num_alike == 10:
                assert page.run(KEYS) == keys
            assert len(set(page.run(KEYS)) & set(keys)) >= num_alike, query
            assert "encoded in" in page.run("document.querySelector('#state').textContent")
        page.run(DROP % data_url(picture(3)))
        page.wait("document.querySelectorAll('.names li').length > 0")
        assert "a red apple" in page.run("document.querySelector('.names').textContent")
        page.run(DROP % "data:image/png;base64,AAAA")
        page.wait("document.querySelector('#state.bad')")
        assert "a.png cannot be read" in page.run("document.querySelector('#state').textContent")
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith((address, "data:", "blob:"))] == []
    assert report["page_bytes"]["first search"] > report["page_bytes"]["text encoder"] > 0


@pytest.mark.slow
def test_the_page_and_its_pictures_work_when_the_host_is_gone(embedded_world):
    folder, _ = export_web(embedded_world, "int8")
    query = "document.querySelector('#text').value = 'a red apple'; document.querySelector('.go').click()"
    shown = "[...document.querySelectorAll('.hit img')].slice(0, 4).every((img) => img.naturalWidth > 0)"
    with open_page() as page:
        with static_host(folder) as address:
            page.open(f"{address}/index.html", "document.body?.dataset.offline || document.querySelector('#state.bad')")
            page.run(query)
            page.wait("document.body.dataset.searches === '1'")
            expected = page.run(KEYS)
        page.open(f"{address}/index.html", "document.body?.dataset.ready || document.querySelector('#state.bad')")
        page.run(query)
        page.wait(f"document.body.dataset.searches === '1' && {shown}")
        assert page.run(KEYS) == expected
        page.run(DROP % data_url(picture(3)))
        page.wait("document.querySelectorAll('.names li').length > 0")


@pytest.mark.slow
def test_a_page_that_was_exported_again_takes_no_file_of_the_older_one_from_the_browser(embedded_world, tmp_path):
    """The host lets a browser keep large files for an hour; the later page has its pictures in another order."""
    folder = Path(shutil.copytree(export_web(embedded_world, "fp32")[0], tmp_path / "web"))
    query = "document.querySelector('#text').value = 'a red apple'; document.querySelector('.go').click()"
    found = []
    with static_host(folder, keeps=(".bin", ".onnx", ".js")) as address, open_page() as page:
        for _ in range(2):
            page.open(f"{address}/index.html", "document.body?.dataset.offline || document.querySelector('#state.bad')")
            page.run(query)
            page.wait("document.body.dataset.searches === '1'")
            found.append(page.run(KEYS))
            rows = json.loads((folder / "pictures.json").read_text("utf-8"))
            vectors = np.fromfile(folder / "pictures.bin", "<f4").reshape(len(rows), -1)
            facts = json.loads((folder / "facts.json").read_text("utf-8"))
            later = json.dumps(facts | {"version": "later"})
            write_files(folder, {"pictures.json": json.dumps(rows[::-1]), "facts.json": later})
            vectors[::-1].tofile(folder / "pictures.bin")
    assert found[0] == found[1]


@pytest.fixture
def exported(embedded_world, clip, monkeypatch, tmp_path):
    """Return a function that exports a page without its model; `precisions` are those of each model written."""
    precisions = []
    (tmp_path / "js").mkdir()
    monkeypatch.setattr(web_folder, "problems", lambda: iter([]))
    monkeypatch.setattr(web_folder.onnx_folder, "write", lambda *arguments, **keys: precisions.append(arguments[2]))
    monkeypatch.setattr(web_folder.onnx_folder, "compare", lambda *arguments, **keys: {"checked": arguments[2]})
    monkeypatch.setattr(web_folder, "LIBRARY", tmp_path / "js")

    def export(name, of_page=("fp32",), embedded=embedded_world / "embedded"):
        folder = tmp_path / name
        folder.mkdir()
        writer = web_folder.writer(clip, str(embedded))
        writer.write(clip, folder, of_page)
        report = writer.compare(clip, folder, of_page)
        assert [report["checked"]] == precisions[-1:]
        return folder, report

    return export


def test_a_page_holds_no_picture_from_outside_of_the_pool(embedded_world, clip, exported, tmp_path):
    folder = Path(shutil.copytree(embedded_world / "embedded", tmp_path / "embedded"))
    for shard in range(SHARDS):
        change_places(folder, f"{shard:05}.tar", file=str(tmp_path / "elsewhere.tar"), place=-1)
    with pytest.raises(UserError, match=r"none of the pictures .*does not lie in .*--pictures-from"):
        exported("page", embedded=folder)
    assert not (tmp_path / "page/pictures").exists()
    assert web_folder.writer(clip, str(folder), [str(embedded_world)]).pool["images"].places == (str(embedded_world),)


def test_a_folder_in_which_no_picture_was_embedded_is_refused(embedded_world, exported, tmp_path):
    write_tar(tmp_path / "pool/0.tar", [("0.png", b"no image"), ("0.txt", b"a red apple")])
    embed(embedded_world / "model", tmp_path / "pool", tmp_path / "embedded", of=("images", "texts"), executor=QUIET)
    with pytest.raises(UserError, match=r"none of the pictures .*none was embedded"):
        exported("page", embedded=tmp_path / "embedded")


@pytest.mark.parametrize(
    ("precisions", "unreadable", "num_pictures"),
    [(("fp32",), [], 10), (("fp32",), [0], 9), (("fp32", "int8", "fp16"), [0], 9), (("fp16",), [3, 4], 9)],
)
def test_a_page_has_the_vectors_of_what_it_shows_and_counts_what_it_leaves_out(
    precisions, unreadable, num_pictures, embedded_world, exported, monkeypatch, capfd
):
    monkeypatch.setattr(web_folder, "MAX_PICTURES", 10)
    monkeypatch.setattr(web_folder, "MAX_NAMES", 5)
    read_picture = Embedded.read_picture
    embedded = {of: open_embedded(embedded_world / "embedded", of) for of in ("images", "texts")}
    bad_keys = [row["key"] for row in embedded["images"].rows(np.array(unreadable, np.int64))]

    def read_some(images, row):
        if row["key"] in bad_keys:
            raise BadShard("the disk is away")
        return read_picture(images, row)

    monkeypatch.setattr(Embedded, "read_picture", read_some)
    folder, report = exported("page", precisions)
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    assert facts["dtype"] == {1: precisions[0], 3: "q8"}[len(precisions)]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {*facts["files"]} == {name for name in files if not name.startswith("pictures/")} - {"facts.json"}
    num_shown = {}
    for name, of, field, place in (("pictures", "images", "key", 1), ("names", "texts", "text", 0)):
        every = np.arange(len(embedded[of]))
        values = [row[field] for row in embedded[of].rows(every)]
        vector_of = dict(zip(values, embedded[of].take(every), strict=True))
        shown = [row[place] for row in json.loads((folder / f"{name}.json").read_text("utf-8"))]
        content = (folder / f"{name}.bin").read_bytes()
        if precisions == ("fp32",):
            rows = np.frombuffer(content, "<f4").reshape(len(shown), -1)
            np.testing.assert_array_equal(rows, [vector_of[value] for value in shown])
        else:
            levels = np.frombuffer(content, np.int8, offset=4 * len(shown)).reshape(len(shown), -1)
            assert (np.abs(levels.astype(int)).max(axis=1) == 127).all()
            rows = levels * np.frombuffer(content, "<f4", len(shown))[:, None]
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
            np.testing.assert_allclose(rows, [vector_of[value] for value in shown], atol=5e-3)
        assert len({*shown}) == len(shown)
        assert not {*shown} & {*bad_keys}
        num_shown[name] = len(shown)
    assert num_shown == facts["counts"] == {"pictures": num_pictures, "names": 5}
    left_out = {"pictures beyond 10": len(embedded["images"]) - 10, "names beyond 5": len(embedded["texts"]) - 5}
    if num_pictures < 10:
        left_out["unreadable pictures"] = 10 - num_pictures
    assert report["left_out"] == facts["left_out"] == left_out
    said = capfd.readouterr().err
    text = call_of_page("factsText", facts)
    assert text.startswith(f"{num_pictures} pictures and 5 names. Left out: ")
    for what, number in left_out.items():
        assert f"left out: {number} {what}" in said
        assert f"{number} {what}" in text


def test_the_version_of_a_page_changes_with_the_content_of_any_file(exported, tmp_path):
    versions = []
    for number, content in enumerate(("a", "a", "b")):
        (tmp_path / "js/library.js").write_text(content)
        folder, _ = exported(f"page_{number}")
        versions.append(json.loads((folder / "facts.json").read_text("utf-8"))["version"])
    assert versions[0] == versions[1] != versions[2]
    plain = call_of_page("factsText", {"counts": {}, "left_out": {}})
    assert plain == "The model runs here: no text and no picture leaves this browser."


def call_of_page(name, argument, *others, **facts):
    """Return the result of a function of search.js, which calls `others` and reads the page's facts."""
    node = shutil.which("node") or pytest.skip("no node on this machine")
    page = resources.files("worldclip.plugins").joinpath("browser", "static", "search.js").read_text(encoding="utf-8")
    names = "|".join([name, *others])
    functions = re.findall(rf"^function (?:{names})\(.*?^}}\n", page, re.DOTALL | re.MULTILINE)
    script = f"const facts = {json.dumps(facts)};{''.join(functions)}"
    return json.loads(output_of([node, "-e", f"{script}console.log(JSON.stringify({name}({json.dumps(argument)})))"]))


def test_a_folder_of_another_model_and_an_installation_without_transformers_js_are_refused(
    embedded_world, clip, monkeypatch, tmp_path
):
    assert set(web_folder.writer(clip, str(embedded_world / "embedded")).pool) == {"images", "texts"}
    shutil.copytree(embedded_world / "embedded", tmp_path / "embedded")
    (probe,) = (tmp_path / "embedded").glob("probe.*.npy")
    np.save(probe, -np.load(probe))
    with pytest.raises(UserError, match="the exported model is not the model that embedded"):
        web_folder.writer(clip, str(tmp_path / "embedded"))
    monkeypatch.setattr(web_folder, "LIBRARY", tmp_path)
    with pytest.raises(UserError, match=r"transformers\.web\.min\.js.*run `make web`.*npm"):
        export_model(embedded_world / "model", tmp_path / "out", ExportConfig(formats=("web",)))
    assert not (tmp_path / "out" / "web").exists()
