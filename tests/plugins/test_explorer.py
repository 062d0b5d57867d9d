"""The explorer: its numbers are the run's, its scripts match as the package does, its page opens from disk."""

import dataclasses
import itertools
import json
import platform
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest

import worldclip
from chromium import Page, open_page
from plain_recipe import LISTS, keys_of, make_recipe, make_run, make_shards, run_stages, write_metadata, write_pool
from programs import output_of
from toy import build_toy_world, draw_shape, write_tar
from worldclip import cli
from worldclip.balance.formulas import entry_probs
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.coin import uniform
from worldclip.core.errors import UserError
from worldclip.core.job import lock_folder
from worldclip.core.settings import to_toml
from worldclip.curate import decide, read_curated
from worldclip.language.profiles import PROFILES, normalise
from worldclip.match.matcher.matcher import Matcher
from worldclip.plugins.explorer import lists
from worldclip.plugins.explorer.chunks import Chunks
from worldclip.plugins.explorer.explore import PAGE, explore
from worldclip.plugins.publish.publish import prepared
from worldclip.tools.estimate import estimate
from worldclip.tools.inspect_run import inspect_key

PLANTED = [
    "a photo of <script>window.planted = 1</script> red",
    'a photo of <img src=x onerror="window.planted = 2"> green',
    "a photo of [blue](javascript:window.planted=3) javascript:alert(1)",
    "a photo of <b>bold</b> __proto__ \u2028 ]]> --> </script> star",
]
ENTRIES = ["<b>bold</b>", "javascript", "__proto__", "constructor", "photo"]


class Explored(NamedTuple):
    """A run and the folder of its explorer."""

    run: Path
    folder: Path


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """Made once for all tests; do not change it."""
    folder = tmp_path_factory.mktemp("explored")
    world = build_toy_world(folder / "world")
    with (folder / "world/lists/en.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join(ENTRIES) + "\n")
    picture = draw_shape(0, np.array([9, 9, 9], np.uint8), 0)
    members = []
    for n, text in enumerate(PLANTED):
        members.append((f"<i>{n}.png", picture if n else b"this is no picture"))
        members.append((f"<i>{n}.json", json.dumps({"texts": [text], "lang_truth": ["en"]}).encode()))
    frequent = [json.dumps({"texts": [f"one photo, number {n}"]}) for n in range(20)]
    members += [(f"plain{n}.json", record.encode()) for n, record in enumerate(frequent)]
    members.append(("broken.png", picture))
    members.append(("broken.json", b'{"texts": ["a photo of \xff\xfe red"]}'))
    write_tar(world.pool / "00003.tar", members)
    run = worldclip.run(str(world.recipe), out=folder / "run", until="curate")
    explore(run, folder / "explorer")
    return Explored(Path(run), folder / "explorer")


def read_chunk(folder: Path, name: str):
    text = (folder / "data" / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(rf'receiveChunk\("{name}",(.*)\)\n', text, re.DOTALL)[1])


def test_every_value_of_the_slider_is_what_estimate_gives(explored):
    slider, run = read_chunk(explored.folder, "slider"), read_chunk(explored.folder, "run")
    assert slider["key"] == "tail_fraction"
    assert len(slider["values"]) == 41
    assert slider["values"][slider["own"]] == 0.3
    candidates = estimate(explored.run, tail_fraction=slider["values"])["candidates"]
    for i, candidate in enumerate(candidates):
        assert slider["total"][i] == candidate["total"]["expected_pairs"]
        for number, language in enumerate(run["languages"]):
            row = candidate["languages"][language["code"]]
            assert slider["expected"][number][i] == row["expected_pairs"]
            if language["list"] >= 0:
                assert slider["thresholds"][language["list"]][i] == row["threshold"]


def test_examples_are_kept_exactly_where_the_run_kept_them(explored):
    shards = [path.name.removesuffix(".parquet") for path in (explored.run / "curate").glob("*.parquet")]
    rows = [row for shard in shards for row in read_curated(explored.run, shard).to_pylist()]
    kept = {(row["key"], row["text_idx"]): row["keep_prob"] for row in rows}
    run = read_chunk(explored.folder, "run")
    reasons = [name for name, *_ in run["reasons"]]
    seen = set()
    for number in range(len(run["languages"])):
        for example in read_chunk(explored.folder, f"examples/{number}")["examples"]:
            key, text_idx, _, _, reason, keep_prob, coin, *_ = example
            seen.add(reasons[reason])
            if keep_prob is not None:  # a text with a match
                assert ((key, text_idx) in kept) == (reasons[reason] == "kept") == (coin < keep_prob)
                assert kept.get((key, text_idx), keep_prob) == keep_prob
    assert {"kept", "sampled_out", "bad_pair"} <= seen


def test_a_run_whose_recipe_changed_since_curate_is_refused(explored, tmp_path):
    run = shutil.copytree(explored.run, tmp_path / "run")
    recipe = load_recipe(run)
    changed = dataclasses.replace(recipe, balance=dataclasses.replace(recipe.balance, tail_fraction=0.77))
    artifacts.write_text(run / "recipe.toml", to_toml(changed))
    said = r"curate is out of date: balance\.tail_fraction was .*, is 0\.77; run first: worldclip run .* --until curate"
    with pytest.raises(UserError, match=said):
        explore(run, tmp_path / "explorer")
    with pytest.raises(UserError, match=said), prepared(run, "owner/name"):
        pass


def test_a_folder_of_others_is_refused_and_an_older_explorer_replaced(explored, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no explorer"):
        explore(explored.run, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    out = tmp_path / "explorer"
    explore(explored.run, out)
    (out / "data/old.js").write_text("")
    again = explore(explored.run, out)
    assert (out / "data/old.js").exists()  # nothing has changed
    manifest = artifacts.read_json(out / "manifest.json")
    artifacts.write_json(out / "manifest.json", {**manifest, "inputs": {}})
    assert explore(explored.run, out) == again
    assert not (out / "data/old.js").exists()


def test_files_that_took_the_place_of_those_of_the_pool_give_no_pictures(tmp_path, capfd):
    write_pool(tmp_path / "pool", make_shards(seed=5, num_shards=2, num_samples=5), image_of=shape_of)
    run_stages(make_recipe(tmp_path / "pool"), tmp_path / "run")
    first, last = sorted((tmp_path / "pool").rglob("*.tar"))
    shutil.copy(last, first)
    explored = explore(tmp_path / "run", tmp_path / "explorer")
    assert f"{first.name} changed since the stage pool read the pool" in capfd.readouterr().err
    assert explored["unread"].startswith("The pool could not be read: there are no pictures")
    assert not list((tmp_path / "explorer").glob("pictures/*/*"))


def test_an_explorer_made_while_the_pool_was_away_is_made_again(tmp_path, capfd):
    write_pool(tmp_path / "pool", make_shards(seed=5, num_shards=1, num_samples=5), image_of=shape_of)
    run_stages(make_recipe(tmp_path / "pool"), tmp_path / "run")
    out = tmp_path / "explorer"
    (tmp_path / "pool").rename(tmp_path / "away")
    assert cli.main(["explore", str(tmp_path / "run"), "--out", str(out)]) == 0
    shown = capfd.readouterr()
    unread = artifacts.read_manifest(out)["counts"]["unread"]
    assert re.fullmatch(r"\d+ pictures could not be read", unread)
    assert f"{unread}. Run the same command again" in shown.out
    assert "00000.tar" in shown.err
    assert read_chunk(out, "run")["unread"] == unread
    assert str(tmp_path) not in "".join(path.read_text() for path in out.rglob("*.js*"))
    (tmp_path / "away").rename(tmp_path / "pool")
    assert explore(tmp_path / "run", out)["unread"] == ""
    assert list(out.glob("pictures/*/*"))
    (out / "data/old.js").write_text("")
    explore(tmp_path / "run", out)
    assert (out / "data/old.js").exists(), "pictures that are no images do not make it again"


def shape_of(key: str) -> bytes:
    """Return a picture, and of every second key what is none."""
    return draw_shape(0, np.array([9, 9, 9], np.uint8), 0) if int(key[-1]) % 2 else b"this is no picture"


def test_a_large_world_s_explorer_keeps_as_much_of_each_list_as_fits():
    sizes = {"en": 50, "de": 9, "gsw": 2}
    for most, expected in ((61, 50), (60, 49), (27, 16), (26, 15), (20, 9), (6, 2), (5, 1), (2, 0)):
        assert lists.max_entries_per_list(sizes, most) == expected, most


def test_entries_of_a_list_that_is_cut_have_their_own_counts(tmp_path):
    run = tmp_path / "run"
    write_metadata(run, {"x": ["cat", "dog", "owl", "bee", "elk"]})
    artifacts.write_array(layout.entry_counts(run, "x"), np.array([0, 7, 1, 9, 0], np.uint64))
    lists.write_list(Chunks(tmp_path), 0, run, "x", threshold=5, profile="unicode", max_entries=3)
    chunk = read_chunk(tmp_path, "entries/0/0")
    assert [chunk[name] for name in ("entries", "counted", "counts")] == [["bee", "dog", "owl"], [0, 1, 2], [9, 7, 1]]


def test_what_the_check_removed_is_shown_as_it_is_now(tmp_path):
    shards = make_shards(seed=5, num_shards=1, num_samples=5)
    removed, *valid = keys_of(shards)
    artifacts.write_table(tmp_path / "valid_keys.parquet", pa.table({"key": valid}), schemas.VALID_KEYS)
    run = make_run(tmp_path, shards, pool={"valid_keys": str(tmp_path / "valid_keys.parquet")})
    out = tmp_path / "explorer"
    explore(run, out)
    assert read_chunk(out, "checked")["rules"] == []
    row = {**dict.fromkeys(schemas.REMOVED.names), "key": removed, "shard": "0", "rule": "near_duplicate"}
    artifacts.write_table(tmp_path / "removed.parquet", pa.Table.from_pylist([row], schemas.REMOVED), schemas.REMOVED)
    explore(run, out)
    assert read_chunk(out, "checked")["rules"] == [["near_duplicate", 1]]
    content = "".join(path.read_text(encoding="utf-8") for path in out.rglob("*.js*"))
    assert [key for key in (removed, *valid) if f'"{key}"' in content] == valid
    assert str(tmp_path) not in content
    explore(run.rename(tmp_path / "renamed"), out)
    assert read_chunk(out, "run")["name"] == "renamed"


def test_two_explorers_of_one_folder_are_never_at_work(explored, tmp_path):
    aside = tmp_path / f".pages.{platform.node()}.tmp"
    with lock_folder(aside), pytest.raises(UserError, match="is in use by process"):
        explore(explored.run, tmp_path / "pages")
    explore(explored.run, tmp_path / "pages")
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]
    assert not (tmp_path / "pages/.lock").exists()


@pytest.mark.parametrize(
    "curate", [{"text_policy": "one"}, {"text_policy": "all"}, {"text_policy": "all", "max_pairs": 20}]
)
def test_every_key_is_explained_as_inspect_explains_it(curate, tmp_path):
    shards = make_shards(seed=5, num_shards=2, num_samples=25)
    matched, unmatched = ([(f"twice{n}", [text]) for n in range(8)] for text in (f"a {LISTS['en'][0]}", "no match"))
    shards |= {"two/0.tar": [*matched[:4], *unmatched[4:]], "two/1.tar": [*unmatched[:4], *matched[4:]]}
    run = make_run(tmp_path, shards, curate={**curate, "exclude": ["ar"]})
    out = tmp_path / "explorer"
    explore(run, out)
    reasons = [name for name, *_ in read_chunk(out, "run")["reasons"]]
    seen = set()
    for key, _, texts in itertools.chain(*(read_chunk(out, f"pairs/{path.stem}") for path in out.glob("data/pairs/*"))):
        explained = inspect_key(run, key)["texts"]
        for (text_idx, text, label, _, _, reason, keep_prob), wanted in zip(texts, explained, strict=True):
            name = "not_drawn" if reason < 0 else reasons[reason]
            seen.add(name)
            assert (text_idx, text, name) == (wanted["text_idx"], wanted["text"], wanted["reason"])
            assert keep_prob == wanted.get("keep_prob")
            assert label == wanted.get("lid_label", label)
    assert {"duplicate", "no_language", "excluded", "kept", "sampled_out"} <= seen
    assert ("not_drawn" in seen) == (curate["text_policy"] == "one")


SCRIPT = Path(__file__).with_name("explorer_in_node.js")
WORDS = """
a photo of the cat, T-shirt U.S. cat's ok. STRASSE straße İstanbul ǅ ŉ ᾳ ﬁn Кошка КОШКА кошка ёлка λόγος ΛΌΓΟΣ Ελλάδα
الصورة قطة، كلب می‌رود बिल्ली। कुत्ता क्षि ক্ষি বাংলা தமிழ் மொழி മലയാളം ภาษาไทย ที่นี่ น้ำ ລາວ မြန်မာ ខ្មែរ བོད་ཡིག
猫咪 照片 一张 ねこ カメラ コーヒー ｶﾞ か\u3099 가방 사진을 한국어 \u1100\u1161\u11a8 e\u0301 q\u0323\u0307
𠀀 👩‍🍳 ❤️ ½ Ⅳ ១២ ა ბავშვი Ա հայ ሰላም
"""
TEXT_WORDS = WORDS.split()
GLUE = ["", "", " ", " ", "  ", "\t", "\n", "\u3000", "\u200d", ", ", ".", "!", "`", "\x1c", "\ufeff", "—", "、"]
COUNTS = [0, 1, 5, 40, 2**40]
THRESHOLD = 5


@pytest.fixture(scope="module", params=PROFILES)
def listed(request, tmp_path_factory) -> tuple[str, list[str], Path]:
    """(profile, entries, explorer with them as list 0 in chunks of 8 entries)."""
    profile, run, folder = request.param, tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("explorer")
    draw = random.Random(3)
    entries = list(dict.fromkeys(make_text(draw, 1 + draw.randrange(3)).strip() for _ in range(400)))
    entries = [*TEXT_WORDS, *[x for word in TEXT_WORDS for x in word], *entries, "\uff5e", "\U0001f469", "__proto__"]
    entries = [entry for entry in dict.fromkeys(entries) if normalise(entry, profile) and entry]
    write_metadata(run, {"x": entries})
    counts = np.array([COUNTS[i % len(COUNTS)] for i in range(len(entries))], np.uint64)
    artifacts.write_array(layout.entry_counts(run, "x"), counts)
    chunks = Chunks(folder)
    for path in PAGE.glob("*.js"):
        shutil.copy(path, folder)
    chunks.write("profile", lists.profile_record(profile))
    chunk_entries, lists.CHUNK_ENTRIES = lists.CHUNK_ENTRIES, 8
    try:
        lists.write_list(chunks, 0, run, "x", threshold=THRESHOLD, profile=profile, max_entries=10**6)
    finally:
        lists.CHUNK_ENTRIES = chunk_entries
    return profile, entries, folder


def call_page(folder: Path, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the result of each (function, arguments ...) of the explorer in `folder`; skip the test without Node."""
    node = shutil.which("node") or pytest.skip("no node on this machine")
    return json.loads(output_of([node, SCRIPT, folder], stdin=json.dumps(calls)))


def make_text(draw: random.Random, num_words: int) -> str:
    return "".join(draw.choice(TEXT_WORDS) + draw.choice(GLUE) for _ in range(num_words))


def test_texts_of_ten_scripts_match_in_the_page_as_the_matcher_says(listed):
    profile, entries, folder = listed
    draw = random.Random(4)
    texts = [make_text(draw, draw.randrange(12)) for _ in range(400)]
    matcher = Matcher.build(entries, profile)
    found = call_page(folder, [("matchText", 0, text) for text in texts])
    num_matches = 0
    for text, rows in zip(texts, found, strict=True):
        ids = matcher.match(text).tolist()
        assert sorted(row["entry"] for row in rows) == sorted(entries[i] for i in ids), repr(text)
        for row in rows:
            assert row["matches"] == COUNTS[entries.index(row["entry"]) % len(COUNTS)]
        num_matches += len(ids)
    assert num_matches > 2000


def test_any_text_is_decided_with_caps_and_excluded_languages_as_inspect_does(tmp_path):
    curate = {"text_policy": "all", "max_pairs": 20, "exclude": ["ar"]}
    run = make_run(tmp_path, make_shards(seed=5, num_shards=2, num_samples=40), curate=curate)
    out = tmp_path / "explorer"
    explore(run, out)
    record = read_chunk(out, "run")
    assert any(language["factor"] < 1 for language in record["languages"])
    wanted = []
    for key, _, texts in itertools.chain(*(read_chunk(out, f"pairs/{path.stem}") for path in out.glob("data/pairs/*"))):
        text_idx, text, _, _, lang, reason, keep_prob = texts[0]
        if text and lang >= 0 and record["languages"][lang]["list"] >= 0:
            assert text_idx == 0
            wanted.append((text, record["languages"][lang]["code"], key, reason, keep_prob))
    calls = [("decideText", record, text, code, key) for text, code, key, *_ in wanted]
    decided = call_page(out, [("readFile", "run"), *calls])[1:]
    assert [(row["reason"], row["keepProb"]) for row in decided] == [row[3:] for row in wanted]
    reasons = {record["reasons"][row["reason"]][0] for row in decided}
    assert {"excluded", "kept", "sampled_out", "no_match"} <= reasons


def test_coins_and_probabilities_are_the_run_s(listed):
    keys = ["000000000", "", "red apple", "1F468-200D", "猫" * 40, "a" * 31, "b" * 32, "c" * 33, "x" * 200]
    cases = [(key, i, seed, i % 2) for key in keys for i, seed in ((0, 0), (3, 42), (7, 2**63 - 1))]
    calls = [("uniform", key, i, str(seed), 0, stream) for key, i, seed, stream in cases]
    wanted = [uniform(key, i, seed, 0, stream) for key, i, seed, stream in cases]
    assert call_page(listed[2], calls) == wanted
    counts = np.array([0, 1, 5, 6, 400, 10**6], np.uint64)
    probs = entry_probs(counts, THRESHOLD).astype(np.float32)
    page = call_page(listed[2], [("entryProbability", THRESHOLD, int(number)) for number in counts])
    assert page == probs.astype(float).tolist()
    ids = [3, 4, 5]
    [kept] = call_page(listed[2], [("keepProbability", [page[i] for i in ids])])
    assert kept == decide.keep_prob(ids, [0, 3], probs)[0]


VIEWS = {
    "overview": ".curve-place svg",
    "language/en": ".shot",
    "language/ar": ".shot",
    "entry/en/red": ".shot",
    "why": ".dropped li a",
    "why/broken": ".note, .shot",  # bytes that are no UTF-8
    "labels": "main h2",
    "checked": "main h2",
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as opened:
        yield opened


def show(page: Page, explored, view: str, until: str = "main h2") -> None:
    page.errors.clear()
    page.requests.clear()
    page.open("about:blank")
    page.open(f"{(explored.folder / 'index.html').as_uri()}#/{view}", f"document.querySelector({until!r})")


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_opens_from_disk_without_errors_and_without_the_network(page, explored, view):
    for width, dark in ((1400, False), (400, True)):
        page.resize(width, 900, dark=dark)
        show(page, explored, view, VIEWS[view])
        assert page.errors == []
        assert not page.is_cut()
        outside = [url for url in page.requests if not url.startswith((explored.folder.as_uri(), "about:"))]
        assert outside == []


def test_what_has_no_language_is_not_counted_or_named_as_one(page, explored):
    codes = [language["code"] for language in read_chunk(explored.folder, "run")["languages"]]
    assert "und" in codes
    show(page, explored, "overview", VIEWS["overview"])
    cards = page.run("[...document.querySelectorAll('.card')].map((card) => card.textContent)")
    assert f"{len(codes) - 1}languages" in cards
    shown = page.run("[...document.querySelectorAll('td:first-child, option')].map((cell) => cell.textContent)")
    assert "no language" in shown
    assert not {*codes} & {*shown}  # each has its name
    show(page, explored, "why", VIEWS["why"])
    details = page.run("['en 0.12', 'coin 0.6 >= 0.3; entries 1', null].map(detailText)")
    assert details == ["English (en), probability 0.12", "coin 0.6 >= 0.3; entries 1", ""]


def test_planted_markup_stays_text(page, explored):
    show(page, explored, "language/en", VIEWS["language/en"])
    for _ in range(8):
        page.run("document.querySelectorAll('section > div > button').forEach((button) => button.click())")
    shown = page.run("document.querySelector('main').textContent")
    assert "<script>window.planted = 1</script>" in shown
    assert '<img src=x onerror="window.planted = 2">' in shown
    assert "javascript:alert(1)" in shown
    for view in (f"why/{quote('<i>2', safe='')}", f"entry/en/{quote('<b>bold</b>', safe='')}", "entry/en/__proto__"):
        show(page, explored, view, ".shot, .note")
        assert page.run("document.querySelectorAll('.shot').length") >= 1, view
    assert page.run("typeof planted") == "undefined"
    assert page.run("document.querySelectorAll('main script, main i:not([style]), main b:not(.card b)').length") == 0
    assert page.run("[...document.links].every((link) => link.protocol === 'file:')")


def test_the_slider_and_the_views_work_by_keyboard_alone(page, explored):
    def press(*keys: tuple) -> str:
        """Press keys; return what has the focus then."""
        for key in keys:
            page.press(*key)
        return page.run(
            "[document.activeElement.className, document.activeElement.id, document.activeElement.dataset.view]"
        )

    tab, enter = ("Tab", 9), ("Enter", 13, "\r")
    show(page, explored, "overview", VIEWS["overview"])
    assert press(tab)[0] == "skip"
    assert press(tab, tab)[2] == "why"
    press(enter)
    page.wait("document.querySelector('#key')")
    press(tab, enter)  # the first key of the list
    page.wait("document.querySelector('.verdict')")
    assert press(tab)[1] == "key"
    page.type("00007")
    press(enter)
    page.wait("document.querySelector('.verdict')")
    show(page, explored, "overview", VIEWS["overview"])
    before = page.run("document.querySelector('output').textContent")
    page.run("place.focus()")
    press(("ArrowRight", 39))
    assert page.run("document.querySelector('output').textContent") != before
