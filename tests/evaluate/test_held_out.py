"""Held-out sets of a drawn pool (layout `names`), from a miniature pool of eight emoji in two languages."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from count_files import write_count_file
from tars import write_tar
from worldclip.contracts.schemas import MATCH_TEXTS
from worldclip.core.artifacts import write_json, write_manifest, write_table
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import load as load_by_name
from worldclip.pool.builders import HeldOut, write_held_out

KEYS = [f"1F60{i}" for i in range(8)]
NAMES = {
    "en": ["red apple", "green apple", "pear", "red ring", "ring", "gem stone", "gem", "kiwi"],
    "ja": ["リンゴ", "リンゴ", "洋ナシ", "赤い指輪", "指輪", "宝石", "宝石", "キウイ"],
}


def load(name, run_dir):
    return load_by_name(name, EvaluateConfig(datasets=(name,)), run_dir)


@pytest.fixture
def run_dir(tmp_path):
    """RUN with a pool whose base set holds the emoji 0 to 5 in two tars, and whose tone set holds two."""
    samples = [(f"{key}.png", key.encode()) for key in KEYS]
    info = json.dumps({"texts": [], "emoji": "?"}).encode()
    for part, chosen in {"base/000000": samples[:4], "base/000001": samples[4:6], "tone/000000": samples[6:]}.items():
        members = [member for name, data in chosen for member in ((name, data), (name.replace("png", "json"), info))]
        write_tar(tmp_path / "pool" / f"{part}.tar", dict(members))
    pool = tmp_path / "pool"
    write_json(pool / "names.json", {"keys": KEYS, "lang": NAMES})
    subjects = {key: number for number, key in enumerate(KEYS)}
    for part in ("base", "tone"):
        write_json(pool / part / "set.json", {"subjects": subjects, "about": "all", "thirds": part == "base"})
    write_held_out(pool, {f"emoji_{part}": HeldOut(f"names:{part}", f"About {part}.") for part in ("base", "tone")})
    return tmp_path


def write_matches(run_dir):
    """red 0, apple 1, ring 2, gem 3, stone 4; counts over two shards; `pear` and `kiwi` match nothing."""
    matched = [("red apple", [0, 1]), ("green apple", [1]), ("red ring", [0, 2]), ("ring", [2]), ("gem stone", [3, 4])]
    table = pa.table(
        {
            "key": KEYS[:5],
            "text_idx": np.zeros(5, np.int32),
            "place": np.zeros(5, np.int16),
            "text": [text for text, _ in matched],
            "lang": ["en"] * 5,
            "lang_prob": np.ones(5, np.float32),
            "entries_lang": ["en"] * 5,
            "entry_ids": pa.array([ids for _, ids in matched], pa.large_list(pa.int32())),
        }
    )
    write_table(run_dir / "match/texts/a.tar.parquet", table, MATCH_TEXTS)
    for shard, counts in {"a": [(0, 10), (1, 3)], "b": [(0, 90), (2, 1), (3, 4), (4, 25)]}.items():
        # The first row is of another list, so that each shard has a dictionary of its own.
        rows = [("de" if shard == "a" else "zh", 0, 77), *(("en", *count) for count in counts)]
        write_count_file(run_dir / f"match/counts/{shard}.tar.parquet", rows)
    write_manifest(run_dir / "match", config={}, inputs={}, counts={})


def test_classes_are_the_distinct_names_of_all_emoji(run_dir):
    dataset = load("emoji_base", run_dir)
    assert dataset.image_keys == KEYS[:6]
    assert dataset.languages == ("en", "ja")
    assert dataset.read_images(3, 5) == [KEYS[3].encode(), KEYS[4].encode()]
    english, _ = dataset.tasks("en")
    japanese, retrieval = dataset.tasks("ja")
    assert (len(english.class_names), len(japanese.class_names)) == (8, 6)
    assert [english.class_names[i][0] for i in english.target] == NAMES["en"][:6]
    assert [japanese.class_names[i][0] for i in japanese.target] == NAMES["ja"][:6]
    assert japanese.target[0] == japanese.target[1], "images of one name share a class, and a text"
    assert len(retrieval.texts) == 5
    pairs = zip(retrieval.pair_image, retrieval.pair_text, strict=True)
    assert [retrieval.texts[text] for _, text in pairs] == NAMES["ja"][:6]


def test_base_is_reported_by_thirds_of_match_counts(run_dir):
    write_matches(run_dir)
    task, _ = load("emoji_base", run_dir).tasks("ja")
    thirds = {name: [NAMES["en"][i] for i in np.flatnonzero(mask)] for name, mask in task.slices.items()}
    # geometric means: red apple sqrt(300), green apple 3, pear 0, red ring 10, ring 1, gem stone 10
    assert thirds == {
        "head": ["red apple", "red ring"],
        "middle": ["green apple", "gem stone"],
        "tail": ["pear", "ring"],
    }
    tone, _ = load("emoji_tone", run_dir).tasks("en")
    assert tone.slices == {}


def test_digest_depends_on_images_names_and_thirds(run_dir):
    other_names = {"keys": KEYS, "lang": NAMES | {"ja": NAMES["ja"][::-1]}}
    digests = {load("emoji_base", run_dir).digest}
    for change in (
        lambda: write_matches(run_dir),
        lambda: write_json(run_dir / "pool/names.json", other_names),
        lambda: write_tar(run_dir / "pool/base/000001.tar", {f"{KEYS[4]}.png": b"another"}),
    ):
        change()
        digests.add(load("emoji_base", run_dir).digest)
    assert len(digests) == 4


def change_set(run_dir, **changes):
    path = run_dir / "pool/base/set.json"
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_a_language_is_asked_about_the_images_that_it_names_if_these_are_half(run_dir):
    few = [None if number in (0, 2, 3, 5) else name for number, name in enumerate(NAMES["en"])]
    many = [None if number in (0, 2, 3) else name for number, name in enumerate(NAMES["en"])]
    write_json(run_dir / "pool/names.json", {"lang": {**NAMES, "de": few, "fr": many, "not-a-language": many}})
    dataset = load("emoji_base", run_dir)
    assert dataset.languages == ("en", "ja", "fr")
    classification, _ = dataset.tasks("fr")
    assert classification.image_idx.tolist() == [1, 4, 5]
    assert len(classification.class_names) == 5
    change_set(run_dir, classes=[1, 2, 4, 5], asked={"fr": [KEYS[4], KEYS[1]], "en": []})
    dataset = load("emoji_base", run_dir)
    assert dataset.languages == ("fr",)  # `asked` has no Japanese
    classification, _ = dataset.tasks("fr")
    assert classification.image_idx.tolist() == [1, 4]
    assert [name for [name] in classification.class_names] == ["gem stone", "green apple", "ring"]


def test_sets_that_are_missing_or_elsewhere_are_refused_with_a_remedy(tmp_path, run_dir):
    with pytest.raises(UserError, match=r"evaluate\.datasets names emoji_tone.*has no held-out sets.*pool\.build"):
        load("emoji_tone", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"names world_stamps.*has emoji_base, emoji_tone.*pool\.parts"):
        load("world_stamps", run_dir)
    write_held_out(run_dir / "pool", {"emoji_tone": HeldOut("names:../../elsewhere", "?")})
    with pytest.raises(UserError, match=r"'\.\./\.\./elsewhere', which is not below"):
        load("emoji_tone", run_dir)
    (run_dir / "pool/base/set.json").unlink()
    folders = {"mine": f"names:{run_dir / 'pool/base'}"}
    with pytest.raises(UserError, match=r"base is not in the layout names .*set\.json"):
        load_by_name("mine", EvaluateConfig(datasets=("mine",), folders=folders), tmp_path)


def test_corrupt_pools_are_named(run_dir):
    tar = run_dir / "pool/base/000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:600])
    with pytest.raises(BadShard, match=r"000001\.tar: not a readable tar"):
        load("emoji_base", run_dir)
    write_tar(tar, {"1F999.png": b"?"})
    with pytest.raises(BadShard, match=r"1 images are not in set\.json, the first is 1F999"):
        load("emoji_base", run_dir)
    subjects = dict.fromkeys([*KEYS, "1F999"], 0)
    for changes in (
        {"subjects": {"1F999": 8}}, {"subjects": [1]}, {"subjects": subjects | {"1F999": 0.5}},
        {"subjects": {"1F999": -1}}, {"classes": 3}, {"classes": ["1"]}, {"asked": ["en"]},
    ):  # fmt: skip
        change_set(run_dir, **{"subjects": subjects, "classes": [0], "asked": {}, **changes})
        write_json(run_dir / "pool/names.json", {"lang": NAMES, **changes})
        with pytest.raises(UserError, match=r"emoji_base: .*base is not in the layout names"):
            load("emoji_base", run_dir)
    write_json(run_dir / "pool/names.json", {"lang": NAMES})
    change_set(run_dir, subjects=subjects | {"1F999": 1}, classes=[0], asked={"en": ["1F999"]})
    with pytest.raises(BadShard, match=r"set\.json: the subject of image 1F999 is not one of classes; add it there"):
        load("emoji_base", run_dir)
