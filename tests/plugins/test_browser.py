"""The exported page runs the model in headless Chromium, offline, and finds what `worldclip search` finds."""

import functools
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chromium import DROP, open_page
from embedded_world import SHARDS, picture, segment_of
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
    node = shutil.which("node") or pytest.skip("no node on this machine")
    page = resources.files("worldclip.plugins").joinpath("browser", "static", "search.js").read_text(encoding="utf-8")
    functions = "".join(re.findall(r"^function (?:clean|breakSpecials)\(.*?^}\n", page, re.DOTALL | re.MULTILINE))
    texts = ["a </s> b", "a ＜/s＞ ﬁ", "ﬁ ＜", "x|y"]
    script = f'const facts = {{ specials: ["</s>", "|"] }};{functions}'
    script += f"console.log(JSON.stringify({json.dumps(texts)}.map(clean)))"
    assert json.loads(output_of([node, "-e", script])) == ["a < /s> b", "a < /s> fi", "ﬁ ＜", "xy"]


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


@pytest.mark.slow
def test_vectors_and_captions_are_those_of_the_pool(embedded_world):
    folder, _ = export_web(embedded_world, "int8")
    pictures, names = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("pictures", "names"))
    embedded = open_embedded(embedded_world / "embedded", "images")
    every = np.arange(len(embedded))
    assert [row[1] for row in pictures] == [row["key"] for row in embedded.rows(every)]
    assert all((folder / "pictures" / row[0]).stat().st_size > 0 for row in pictures)
    data = (folder / "pictures.bin").read_bytes()
    scales = np.frombuffer(data, "<f4", len(pictures))
    vectors = np.frombuffer(data, np.int8, offset=4 * len(pictures)).reshape(len(pictures), -1) * scales[:, None]
    assert (vectors * embedded.take(every)).sum(axis=1).min() > 0.999
    assert len({name for name, _ in names}) == len(names)
    assert all(path.suffix not in (".py", ".pt") for path in folder.rglob("*"))
    assert "sdk: static" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_page_holds_no_picture_from_outside_of_the_pool(embedded_world, clip, monkeypatch, tmp_path):
    folder = Path(shutil.copytree(embedded_world / "embedded", tmp_path / "embedded"))
    for shard in range(SHARDS):
        table = segment_of(folder, f"{shard:05}.tar", "parquet")
        rows = pq.read_table(table)
        files = pa.array([str(tmp_path / "elsewhere.tar")] * len(rows))
        rows = rows.set_column(rows.column_names.index("file"), "file", files)
        places = pa.array([-1] * len(rows), pa.int16())
        pq.write_table(rows.set_column(rows.column_names.index("place"), "place", places), table)
    monkeypatch.setattr(web_folder, "problems", lambda: iter([]))
    monkeypatch.setattr(web_folder.onnx_folder, "write", lambda *arguments, **keys: None)
    page = write_files(tmp_path, {"page/.keep": ""}) / "page"
    with pytest.raises(UserError, match=r"none of the pictures .*does not lie in .*--pictures-from"):
        web_folder.writer(clip, str(folder)).write(clip, page, ["fp32"])
    assert not (page / "pictures").exists()
    assert web_folder.writer(clip, str(folder), [str(embedded_world)]).pool["images"].places == (str(embedded_world),)


def test_a_folder_in_which_no_picture_was_embedded_is_refused(embedded_world, clip, monkeypatch, tmp_path):
    monkeypatch.setattr(web_folder, "problems", lambda: iter([]))
    monkeypatch.setattr(web_folder.onnx_folder, "write", lambda *arguments, **keys: None)
    page = write_files(tmp_path, {"page/.keep": ""}) / "page"
    write_tar(tmp_path / "pool/0.tar", [("0.png", b"no image"), ("0.txt", b"a red apple")])
    embed(embedded_world / "model", tmp_path / "pool", tmp_path / "embedded", of=("images", "texts"), executor=QUIET)
    with pytest.raises(UserError, match=r"none of the pictures .*none was embedded"):
        web_folder.writer(clip, str(tmp_path / "embedded")).write(clip, page, ["fp32"])


def test_what_the_page_leaves_out_is_counted_in_the_output_and_on_the_page(
    embedded_world, clip, monkeypatch, tmp_path, capfd
):
    monkeypatch.setattr(web_folder, "problems", lambda: iter([]))
    monkeypatch.setattr(web_folder.onnx_folder, "write", lambda *arguments, **keys: None)
    monkeypatch.setattr(web_folder.onnx_folder, "compare", lambda *arguments, **keys: {"checked": {}})
    write_files(tmp_path, {"js/library.js": ""})
    monkeypatch.setattr(web_folder, "library_folder", lambda: tmp_path / "js")
    monkeypatch.setattr(web_folder, "MAX_PICTURES", 10)
    monkeypatch.setattr(web_folder, "MAX_NAMES", 5)
    read_picture = Embedded.read_picture
    keys = [row["key"] for row in open_embedded(embedded_world / "embedded", "images").rows(np.array([0, 3]))]

    def read_some(embedded, row):
        if row["key"] in keys:
            raise BadShard("the disk is away")
        return read_picture(embedded, row)

    pages = {}
    for name in ("away", "back"):
        monkeypatch.setattr(Embedded, "read_picture", read_some if name == "away" else read_picture)
        folder = write_files(tmp_path, {f"{name}/.keep": ""}) / name
        writer = web_folder.writer(clip, str(embedded_world / "embedded"))
        num_embedded = {of: len(embedded) for of, embedded in writer.pool.items()}
        writer.write(clip, folder, ["fp32"])
        pages[name] = writer.compare(clip, folder, ["fp32"])["left_out"]
        said = capfd.readouterr().err
        for what, number in pages[name].items():
            assert f"left out: {number} {what}" in said
    beyond = {"pictures beyond 10": num_embedded["images"] - 10, "names beyond 5": num_embedded["texts"] - 5}
    assert pages == {"away": {**beyond, "unreadable pictures": 2}, "back": beyond}
    facts = json.loads((tmp_path / "away/facts.json").read_text("utf-8"))
    text = call_of_page("factsText", facts)
    assert text.startswith("8 pictures and 5 names. Left out: ")
    for what, number in pages["away"].items():
        assert f"{number} {what}" in text
    plain = call_of_page("factsText", {"counts": {}, "left_out": {}})
    assert plain == "The model runs here: no text and no picture leaves this browser."


@pytest.mark.parametrize("unreadable", [[], [0], [3, 4]])
def test_vectors_are_those_of_the_pictures_and_texts_that_are_shown(
    embedded_world, clip, monkeypatch, tmp_path, unreadable
):
    monkeypatch.setattr(web_folder, "problems", lambda: iter([]))
    monkeypatch.setattr(web_folder.onnx_folder, "write", lambda *arguments, **keys: None)
    monkeypatch.setattr(web_folder, "library_folder", lambda: tmp_path / "js")
    monkeypatch.setattr(web_folder, "MAX_PICTURES", 10)
    monkeypatch.setattr(web_folder, "MAX_NAMES", 5)
    read_picture = Embedded.read_picture
    folder = write_files(tmp_path, {"js/library.js": "", "page/.keep": ""}) / "page"
    writer = web_folder.writer(clip, str(embedded_world / "embedded"))
    images = writer.pool["images"]
    bad_keys = [row["key"] for row in images.rows(np.array(unreadable, np.int64))]

    def read_some(embedded, row):
        if row["key"] in bad_keys:
            raise BadShard("the disk is away")
        return read_picture(embedded, row)

    monkeypatch.setattr(Embedded, "read_picture", read_some)
    writer.write(clip, folder, ["fp32"])
    for name, of, field, place in (("pictures", "images", "key", 1), ("names", "texts", "text", 0)):
        embedded = writer.pool[of]
        every = np.arange(len(embedded))
        vector_of = dict(zip((row[field] for row in embedded.rows(every)), embedded.take(every), strict=True))
        shown = [row[place] for row in json.loads((folder / f"{name}.json").read_text("utf-8"))]
        vectors = np.frombuffer((folder / f"{name}.bin").read_bytes(), "<f4").reshape(len(shown), -1)
        assert not set(shown) & set(bad_keys)
        np.testing.assert_array_equal(vectors, [vector_of[value] for value in shown])


def call_of_page(name, argument):
    """Return the result of a function of search.js."""
    node = shutil.which("node") or pytest.skip("no node on this machine")
    page = resources.files("worldclip.plugins").joinpath("browser", "static", "search.js").read_text(encoding="utf-8")
    (function,) = re.findall(rf"^function {name}\(.*?^}}\n", page, re.DOTALL | re.MULTILINE)
    script = f"{function}console.log(JSON.stringify({name}({json.dumps(argument)})))"
    return json.loads(output_of([node, "-e", script]))


def test_a_folder_of_another_model_and_an_installation_without_transformers_js_are_refused(
    embedded_world, clip, monkeypatch, tmp_path
):
    assert set(web_folder.writer(clip, str(embedded_world / "embedded")).pool) == {"images", "texts"}
    shutil.copytree(embedded_world / "embedded", tmp_path / "embedded")
    (probe,) = (tmp_path / "embedded").glob("probe.*.npy")
    np.save(probe, -np.load(probe))
    with pytest.raises(UserError, match="the exported model is not the model that embedded"):
        web_folder.writer(clip, str(tmp_path / "embedded"))
    monkeypatch.setattr(web_folder, "library_folder", lambda: tmp_path)
    with pytest.raises(UserError, match=r"transformers\.web\.min\.js.*run `make web`.*npm"):
        export_model(embedded_world / "model", tmp_path / "out", ExportConfig(formats=("web",)))
    assert not (tmp_path / "out" / "web").exists()
