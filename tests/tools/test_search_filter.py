"""A search among the rows that fulfil conditions equals the full ranking without all others."""

import datetime
import json
import operator
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chromium import open_page
from embedded_world import picture, segment_of
from miniature import write_files
from pages import REPOSITORY, blocks
from pools import write_table
from serving import post, serving
from stages import QUIET
from toy import write_tar
from worldclip.cli import main
from worldclip.core.errors import StageFailed, UserError
from worldclip.export.embedded import open_embedded
from worldclip.tools.embed import embed
from worldclip.tools.search import nearest, search

COLUMNS = {
    "uid": [f"k{i}" for i in range(12)],
    "caption": [f"apple number {i}" for i in range(12)],
    "price": [1.5, None, 3.0, 20.0, 7.0, 7.5, 0.0, 100.0, float("nan"), 5.0, 6.0, 8.0],
    "category": ["shoe", "hat", "shoe", None, "hat", "bag", "bag", "shoe", "hat", "shoe", "bag", "hat"],
    "in_stock": [True, False] * 6,
}
COMPARE = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COMPARE |= {"in": lambda value, listed: value in listed, "not in": lambda value, listed: value not in listed}


@pytest.fixture(scope="module")
def shop(world, tmp_path_factory) -> Path:
    """Return a folder with `embedded`: the texts of two shards of a table, with its columns."""
    root = tmp_path_factory.mktemp("shop")
    for shard, rows in enumerate((slice(0, 7), slice(7, 12))):
        part = {name: values[rows] for name, values in COLUMNS.items()}
        write_table(root / f"pool/{shard}.parquet", part)
    (root / "model").symlink_to(world / "model")
    columns = ["price", "category", "in_stock"]
    embed(world / "model", root / "pool", root / "embedded", key="uid", columns=columns, executor=QUIET)
    return root


def is_chosen(i: int, conditions: list) -> bool:
    """Return whether row i of COLUMNS fulfils all conditions; a null fulfils none."""
    for name, comparison, operand in conditions:
        value = COLUMNS[name][i]
        if value is None or not COMPARE[comparison](value, operand):
            return False
    return True


CONDITIONS = st.one_of(
    st.tuples(st.just("price"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.sampled_from([0.0, 3.0, 7, 50])),
    st.tuples(st.just("category"), st.sampled_from(["=", "!="]), st.sampled_from(["shoe", "hat", "none"])),
    st.tuples(st.just("category"), st.sampled_from(["in", "not in"]), st.sampled_from([("shoe", "bag"), ("hat",)])),
    st.tuples(st.just("in_stock"), st.sampled_from(["=", "!="]), st.booleans()),
)


@settings(deadline=None, max_examples=60)
@given(
    conditions=st.lists(CONDITIONS, max_size=3),
    keys=st.none() | st.lists(st.sampled_from([*COLUMNS["uid"], "nobody"]), max_size=4),
    prefix=st.sampled_from(["", "0.parquet/", "1.parquet/k1"]),
    top=st.integers(1, 12),
)
def test_a_filtered_search_is_the_full_ranking_without_the_others(shop, conditions, keys, prefix, top):
    embedded = open_embedded(shop / "embedded")
    query = embedded.take(np.array([3]))
    chosen = embedded.select(tuple(conditions), keys, prefix)
    rows = [f"{int(i > 6)}.parquet/k{i}" for i in range(12)]
    expected = [i for i in range(12) if is_chosen(i, conditions)]
    expected = [i for i in expected if (keys is None or f"k{i}" in keys) and rows[i].startswith(prefix)]
    assert np.flatnonzero(chosen).tolist() == expected
    every, _ = nearest(embedded.parts, query, 12)
    ids, scores = nearest(embedded.parts, query, top, chosen)
    assert ids[0].tolist() == [i for i in every[0].tolist() if i in expected][:top]
    assert len(scores[0]) == min(top, len(expected))


def test_the_command_line_filters_and_hits_show_the_columns(shop, capfd):
    folder = str(shop / "embedded")
    words = ["search", folder, "apple", "--filter", "price,<,8", '["category", "in", ["shoe", "bag"]]', "--json"]
    assert main(words) == 0
    hits = json.loads(capfd.readouterr().out)[0]["hits"]
    assert {hit["key"] for hit in hits} == {"k0", "k2", "k5", "k6", "k9", "k10"}
    (hit,) = (hit for hit in hits if hit["key"] == "k2")
    assert hit["columns"] == {"price": 3.0, "category": "shoe", "in_stock": True}
    nan = search(folder, ["apple"], keys=["k8"])[0]["hits"][0]
    assert nan["columns"]["price"] is None
    assert search(folder, ["apple"], filter=(("price", ">", 1000),))[0]["hits"] == []
    assert main(["search", folder, "apple", "--keys", "nobody"]) == 0
    assert capfd.readouterr().out == "apple\n  none: no row fulfils all conditions\n"
    assert main(["search", folder, "apple", "--keys", "k1", "k2", "k8"]) == 0
    assert {line.partition("  (")[2] for line in capfd.readouterr().out.splitlines()[1:]} == {
        "0.parquet/k1)  category: hat, in_stock: false",
        "0.parquet/k2)  price: 3.0, category: shoe, in_stock: true",
        "1.parquet/k8)  category: hat, in_stock: true",
    }


def test_dates_and_half_numbers_are_filtered(world, tmp_path):
    days = [datetime.date(2026, 1, day) for day in (1, 5, 9)]
    times = pa.array([datetime.datetime(2026, 1, 5, hour) for hour in (0, 9, 18)], pa.timestamp("ms", "UTC"))
    halves = pa.array([1.5, 2.5, 3.5], pa.float16())
    columns = {"uid": ["a", "b", "c"], "text": ["x", "y", "z"], "day": days, "time": times, "half": halves}
    write_table(tmp_path / "pool/0.parquet", columns)
    names = ["day", "time", "half"]
    embed(world / "model", tmp_path / "pool", tmp_path / "embedded", key="uid", columns=names, executor=QUIET)
    for condition, expected in (
        (("day", ">=", "2026-01-05"), "bc"),
        (("day", "<", days[1]), "a"),
        (("day", "in", ["2026-01-01", "2026-01-09"]), "ac"),
        (("time", "<=", "2026-01-05T09:00:00Z"), "ab"),
        (("half", ">", 2), "bc"),
    ):
        hits = search(tmp_path / "embedded", ["x"], filter=[condition])[0]["hits"]
        assert sorted(hit["key"] for hit in hits) == list(expected)
    assert {hit["columns"]["day"] for hit in hits} == {"2026-01-05", "2026-01-09"}
    for condition in (("day", "<", "tomorrow"), ("time", "<", "2026-01-05"), ("day", "=", 5)):
        with pytest.raises(UserError, match="dates with texts like 2026-01-31"):
            search(tmp_path / "embedded", ["x"], filter=[condition])


def test_the_server_filters_as_the_library_does(shop, clip):
    with serving(shop, clip) as address:
        conditions = [["price", "<", 8], ["in_stock", "=", True]]
        body = {"input": "apple", "top": 1000, "filter": conditions, "keys": ["k0", "k2", "k4", "k5"]}
        hits = post(address, "search", body).json()["data"][0]["hits"]
        expected = search(shop / "embedded", ["apple"], top=1000, filter=conditions, keys=["k0", "k2", "k4", "k5"])
        assert [hit["key"] for hit in hits] == [hit["key"] for hit in expected[0]["hits"]]
        assert hits[0]["columns"] == expected[0]["hits"][0]["columns"]
        prefixed = post(address, "search", {"input": "apple", "path_prefix": "1.parquet/"}).json()["data"][0]["hits"]
        assert {hit["shard"] for hit in prefixed} == {"1.parquet"}
        for wrong, said in (
            ({"filter": [["prize", "<", 8]]}, "did you mean 'price'?"),
            ({"filter": [["price", "<"]]}, "each condition is"),
            ({"filter": [["price", "<", 10**400]]}, "not comparable with"),
            ({"filter": "price < 8"}, "filter: must be a list"),
            ({"keys": "k0"}, "keys: must be a list of texts"),
            ({"keys": ["\ud800"]}, "keys: must be a list of texts in valid Unicode"),
            ({"path_prefix": 3}, "path_prefix: must be a text"),
            ({"path_prefix": "\ud800"}, "path_prefix: must be a text in valid Unicode"),
            ({"path_prefix": "k0"}, "path_prefix = 'k0': no path in the pool begins so; the first is '0.parquet/k0'"),
        ):
            answer = post(address, "search", {"input": "apple", **wrong})
            assert (answer.status_code, said in answer.json()["error"]["message"]) == (400, True), answer.text
        assert post(address, "search", {"input": "apple", "keys": []}).json()["data"][0]["hits"] == []
        facts = post(address, "search", {"input": "apple", "top": 1001})
        assert facts.status_code == 400


def test_searches_at_once_have_each_their_own_filter(shop, clip, monkeypatch):
    slow = lambda *arguments: (time.sleep(0.05), nearest(*arguments))[1]  # noqa: E731  so that others wait together
    monkeypatch.setattr("worldclip.plugins.server.service.nearest", slow)
    filters = [[["category", "=", name]] for name in ("shoe", "hat", "bag")] * 3
    bodies = [{"input": "apple", "top": 1000, "filter": conditions} for conditions in filters]
    with serving(shop, clip) as address, ThreadPoolExecutor(len(bodies)) as threads:
        answers = list(threads.map(lambda body: post(address, "search", body).json(), bodies))
    for conditions, answer in zip(filters, answers, strict=True):
        expected = search(shop / "embedded", ["apple"], top=1000, filter=conditions)[0]["hits"]
        assert [hit["key"] for hit in answer["data"][0]["hits"]] == [hit["key"] for hit in expected]


def test_fields_of_tars_and_columns_of_image_lists_are_taken_along(world, tmp_path):
    members = []
    for i, record in enumerate(({"price": 3}, {}, {"price": 7})):
        members += [(f"{i}.png", picture(i)), (f"{i}.txt", b"x"), (f"{i}.json", json.dumps(record).encode())]
    write_tar(tmp_path / "pool/0.tar", members)
    embed(world / "model", tmp_path / "pool", tmp_path / "tars", columns=["json:price"], executor=QUIET)
    embedded = open_embedded(tmp_path / "tars")
    assert [row["columns"]["price"] for row in embedded.rows(np.arange(3))] == [3, None, 7]
    assert embedded.select((("price", ">", 4),)).tolist() == [False, False, True]
    assert pq.read_table(segment_of(tmp_path / "tars", "0.tar", "parquet"))["price"].to_pylist() == [3, None, 7]
    write_files(
        tmp_path,
        {
            "a.png": picture(0),
            "b.png": picture(1),
            "list/0.csv": "filepath,title,colour\n../a.png,x,red\n../b.png,y,\n",
        },
    )
    embed(world / "model", tmp_path / "list", tmp_path / "csv", of=("images",), columns=["colour"], executor=QUIET)
    assert search(tmp_path / "csv", ["a"], filter=(("colour", "=", "red"),))[0]["hits"][0]["key"] == "../a.png"


def test_the_shop_of_the_page_is_found_by_its_lines(world, tmp_path, monkeypatch, capsys):
    paths = {15: "summer/a15.jpg", 16: "summer/a16.jpg", 17: "summer/a17.jpg", 18: "winter/a18.jpg"}
    rows = "".join(f"a{i},{path},a red shoe of size {i},{i + 29}.5,shoe,true\n" for i, path in paths.items())
    pictures = {path: picture(i) for i, path in paths.items()}
    write_files(tmp_path, {**pictures, "shop.csv": f"sku,image,title,price,category,in_stock\n{rows}"})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/emoji").symlink_to(world / "model")
    monkeypatch.chdir(tmp_path)
    (to_parquet,) = [block for block in blocks("docs/pool.md", "python") if "COPY" in block and "shop.csv" in block]
    exec(to_parquet, {})
    page = (REPOSITORY / "docs/inference.md").read_text(encoding="utf-8").partition("### Filters")[2]
    lines = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("    worldclip ")]
    keys_of_searches = []
    for words in lines:
        assert main([*words, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        if words[0] == "search":
            keys_of_searches.append([hit["key"] for hit in answer[0]["hits"]])
    assert list(map(sorted, keys_of_searches)) == [
        ["a15", "a16", "a17", "a18"],
        ["a17", "a18"],
        ["a15", "a16", "a17"],
    ]
    (call,) = [line.strip() for line in page.splitlines() if line.startswith("    search(")]
    assert {hit["key"] for hit in eval(call, {"search": search})[0]["hits"]} == {"a17", "a18"}


def test_a_folder_keeps_its_columns_where_none_are_named(world, shop, tmp_path, capfd):
    out = tmp_path / "out"
    for columns in (["price", "category"], [], ["category"], []):
        embed(world / "model", shop / "pool", out, key="uid", columns=columns, executor=QUIET)
    assert "keeps the columns category;" in capfd.readouterr().err
    assert search(out, ["apple"], filter=[("category", "=", "shoe")], top=3)
    with pytest.raises(UserError, match="price"):
        search(out, ["apple"], filter=[("price", ">", 1)])


def test_python_takes_lists_and_one_key(shop):
    embedded = shop / "embedded"
    as_tuples = search(embedded, ["apple"], filter=(("category", "in", ("shoe", "bag")),), top=20)
    assert search(embedded, ["apple"], filter=[["category", "in", ["shoe", "bag"]]], top=20) == as_tuples
    assert [hit["key"] for hit in search(embedded, ["apple"], keys="k8")[0]["hits"]] == ["k8"]
    assert search(embedded, ["apple"], keys=[])[0]["hits"] == []


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({"filter": [("prize", "<", 3)]}, ["filter: no column or field 'prize'; did you mean 'price'?"]),
        ({"filter": [("price", "<", "cheap")]}, ["filter: price holds double, not comparable with 'cheap'"]),
        ({"filter": [("price", "like", 3)]}, ['each condition is ["column", COMPARISON, value]']),
        ({"filter": [("price", "=", (3, 4))]}, ['only "in" and "not in" take a list']),
        ({"filter": [("category", "<", 50)]}, ["filter: category holds texts, not comparable with 50"]),
        ({"filter": [("category", "<", "50")]}, ["filter: category < '50' compares texts, by their characters"]),
        ({"top": 2.5}, ["top = 2.5: must be a whole number"]),
        ({"top": True}, ["top = True: must be a whole number"]),
        ({"top": "5", "of": "image"}, ["top = '5': must be a whole number", "of = 'image': must be images or texts"]),
        ({"filter": ("price", "<", 50)}, ['must be a list of conditions, as [("price", "<", 20)]']),
        ({"filter": 5}, ["filter = 5: must be a list of conditions"]),
        ({"filter": [("price", "<", None)]}, ["filter: ('price', '<', None) has no value"]),
        ({"keys": [7, 8]}, ["keys[0]: has the type int"]),
        ({"keys": 7, "path_prefix": 7}, ["keys = 7: must be a list", "path_prefix: has the type int"]),
        ({"path_prefix": "\ud800"}, ["path_prefix: '\\ud800' is not valid Unicode"]),
        ({"texts": [None]}, ["texts[0]: has the type NoneType"]),
        ({"texts": 5, "images": 5, "pool": 5}, ["texts = 5: must be", "images = 5: must be", "pool = 5: must be"]),
    ],
)
def test_a_wrong_argument_is_named(arguments, problems, shop):
    with pytest.raises(UserError) as caught:
        search(shop / "embedded", **{"texts": ["apple"], **arguments})
    assert len(caught.value.problems) == len(problems)
    for problem in problems:
        assert problem in str(caught.value)


def test_columns_that_cannot_be_taken_along_are_refused(world, shop, tmp_path):
    for columns, problem in ((["key"], "has a column of this name of its own"), (["price", "price"], "is named twice")):
        with pytest.raises(UserError, match=problem):
            embed(world / "model", shop / "pool", tmp_path / "out", key="uid", columns=columns, executor=QUIET)
    with pytest.raises(UserError, match="is a folder of image files, without columns"):
        embed(world / "model", world / "photos", tmp_path / "files", columns=["price"], executor=QUIET)
    with pytest.raises(StageFailed, match="--columns: no column or field 'prize'; did you mean 'price'"):
        embed(world / "model", shop / "pool", tmp_path / "named", key="uid", columns=["prize"], executor=QUIET)
    write_table(tmp_path / "lists/0.parquet", {"uid": ["a", "b"], "text": ["x", "y"], "tags": [["red"], []]})
    with pytest.raises(StageFailed, match="--columns: tags holds list"):
        embed(world / "model", tmp_path / "lists", tmp_path / "tags", key="uid", columns=["tags"], executor=QUIET)


def test_the_page_filters_and_says_that_the_pictures_are_gone(world, clip, tmp_path):
    long = f"{'long_name' * 10}_{{}}.png"
    pictures = {long.format(i): picture(i) for i in range(4)}
    rows = "".join(f"{long.format(i)},{'red' if i % 2 else 'blue'}\n" for i in range(4))
    write_files(tmp_path / "list", {**pictures, "0.csv": f"filepath,colour\n{rows}"})
    recipe = f'[pool]\npath = "{tmp_path}/list"\nkey = "filepath"\nimage_field = "filepath"\ntexts = ["colour"]\n'
    write_files(tmp_path, {"r.toml": recipe})
    out = tmp_path / "embedded"
    embed(world / "model", tmp_path / "r.toml", out, of=("images",), columns=["colour"], executor=QUIET)
    (hit,) = search(out, ["apple"], path_prefix=long.format(1))[0]["hits"]
    assert (hit["path"], hit["key"]) == (long.format(1), long.format(1))
    paths = "[...document.querySelectorAll('.hit .path')].map((path) => path.textContent).sort()"
    with serving(tmp_path, clip) as address, open_page() as page:
        page.open(f"{address}/?q=apple", "document.querySelectorAll('.hit').length === 4")
        page.run("document.querySelector('#filter select').value = JSON.stringify('red')")
        page.run("document.querySelector('#filter select').dispatchEvent(new Event('change')) && 0")
        page.wait("document.querySelectorAll('.hit').length === 2")
        assert page.run(paths) == [long.format(1), long.format(3)]
        assert "colour: red" in page.run("document.querySelector('.hit').textContent")
        page.run("document.querySelector('.hit a').click()")
        page.wait("document.querySelector('#pair').textContent.includes('60 × 40 pixels')")
        named = "[...document.querySelectorAll('#pair dt, #pair dd')].map((element) => element.textContent)"
        assert page.run(named)[::2] == ["Path", "Size", "colour"]
        assert page.run(named)[1] in (long.format(1), long.format(3))
        assert page.run(named)[5] == "red"
        assert str(tmp_path) not in page.run("document.body.textContent")
        assert not page.is_cut()
        assert page.errors == []
        (tmp_path / "list").rename(tmp_path / "away")
        page.open(f"{address}/?q=apple", "document.querySelectorAll('.hit').length === 4")
        assert "pictures are not shown: the folder list is gone" in page.run(
            "document.querySelector('#remarks').textContent"
        )
        assert page.run("document.querySelectorAll('.hit img').length") == 0
        for width in (390, 1280):
            page.resize(width, 900)
            assert not page.is_cut(), width
