"""The page's scripts under Node against the package: matching in the browser, the coin, probabilities, the slider."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plain_recipe import write_metadata
from programs import output_of
from worldclip.balance.formulas import entry_probs
from worldclip.contracts import layout
from worldclip.core import artifacts, coin
from worldclip.curate.decide import keep_prob
from worldclip.language.profiles import PROFILES, normalise
from worldclip.match.matcher.matcher import Matcher
from worldclip.plugins.explorer import explore, lists
from worldclip.plugins.explorer.chunks import Chunks

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
    for path in explore.PAGE.glob("*.js"):
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
    matcher = Matcher.build(entries, profile.removesuffix("_fold"), fold_case=profile.endswith("_fold"))
    found = call_page(folder, [("matchText", 0, text) for text in texts])
    num_matches = 0
    for text, rows in zip(texts, found, strict=True):
        ids = matcher.match(text).tolist()
        assert sorted(row["entry"] for row in rows) == sorted(entries[i] for i in ids), repr(text)
        for row in rows:
            assert row["matches"] == COUNTS[entries.index(row["entry"]) % len(COUNTS)]
        num_matches += len(ids)
    assert num_matches > 2000


def test_marked_places_hold_the_entry(listed):
    profile, entries, folder = listed
    draw = random.Random(5)
    texts = [make_text(draw, 6) for _ in range(150)]
    matcher = Matcher.build(entries, profile.removesuffix("_fold"), fold_case=profile.endswith("_fold"))
    matched = [[entries[i] for i in matcher.match(text)] for text in texts]
    record = lists.profile_record(profile)
    calls = [("placesOf", text, [entry], record) for text, ids in zip(texts, matched, strict=True) for entry in ids]
    wanted = [(text, entry) for text, ids in zip(texts, matched, strict=True) for entry in ids]
    for (text, entry), spans in zip(wanted, call_page(folder, calls), strict=True):
        assert spans, (text, entry)
        units = text.encode("utf-16-le", "surrogatepass")
        for start, end in spans:
            part = units[2 * start : 2 * end].decode("utf-16-le")
            if profile != "reference":  # which puts blanks around marks that the text does not have
                assert normalise(entry, profile) in normalise(part, profile)  # a mark shows with its letter


def test_entries_that_begin_with_a_text_are_found_over_chunks(listed):
    profile, entries, folder = listed
    found = call_page(folder, [("entriesFrom", 0, beginning) for beginning in ("c", "ก", "か", "\U0001f469", "zzz")])
    search = (lambda text: text) if profile == "reference" else (lambda text: normalise(text, profile))
    for beginning, rows in zip(("c", "ก", "か", "\U0001f469", "zzz"), found, strict=True):
        spelt = {search(entry) for entry in entries if search(entry).startswith(search(beginning))}
        assert {search(row["entry"]) for row in rows} == spelt


def test_the_coin_is_the_run_s(listed):
    keys = ["000000000", "", "red apple", "1F468-200D", "猫" * 40, "a" * 31, "b" * 32, "c" * 33, "x" * 200]
    cases = [(key, i, seed, i % 2) for key in keys for i, seed in ((0, 0), (3, 42), (7, 2**63 - 1))]
    calls = [("uniform", key, i, str(seed), 0, stream) for key, i, seed, stream in cases]
    wanted = [coin.uniform(key, i, seed, 0, stream) for key, i, seed, stream in cases]
    assert call_page(listed[2], calls) == wanted


def test_probabilities_are_the_run_s(listed):
    counts = np.array([0, 1, 5, 6, 400, 10**6], np.uint64)
    probs = entry_probs(counts, THRESHOLD).astype(np.float32)
    page = call_page(listed[2], [("entryProbability", THRESHOLD, int(number)) for number in counts])
    assert page == probs.astype(float).tolist()
    ids = [3, 4, 5]
    [kept] = call_page(listed[2], [("keepProbability", [page[i] for i in ids])])
    assert kept == keep_prob(ids, [0, 3], probs)[0]


def test_a_slider_between_two_values_is_interpolated_and_says_so(listed):
    slider = {
        "key": "tail_fraction", "values": [0.01, 0.1, 1.0], "total": [10.0, 20.0, 60.0], "expected": [[1.0, 2.0, 6.0]],
        "thresholds": [[1, 4, 8]], "effective": [[5.0, 6.0, 7.0]],
    }  # fmt: skip
    exact, between = call_page(listed[2], [("stateAt", slider, 1), ("stateAt", slider, 1.5)])
    assert (exact["value"], exact["total"], exact["isExact"]) == (0.1, 20.0, True)
    assert between["value"] == pytest.approx(0.1**0.5)
    assert (between["total"], between["isExact"]) == (40.0, False)
