"""A name that others wrote never leads out of its folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import worldclip
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.safe_path import UnsafeName, is_safe_name, safe_join

SAFE = ["a", "a/b.tar", "./a", "a//b", "a..b", "...", ".a", "猫/кот", "~a", "a/./b"]
UNSAFE = ["", ".", "/", "..", "../a", "a/..", "a/../../b", "/etc/passwd", "a\0b", "./..", "//a", None, 3, b"a"]


@pytest.mark.parametrize("name", SAFE)
def test_names_below_the_folder_are_joined(name):
    assert safe_join(Path("/data"), name) == Path("/data") / name


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_out_are_refused(name):
    assert not is_safe_name(name)
    with pytest.raises(UnsafeName, match="is not a path below /data"):
        safe_join(Path("/data"), "a", name)
    assert issubclass(UnsafeName, UserError)


@given(st.text(st.sampled_from("./a\0~"), max_size=12))
def test_what_is_joined_always_lies_below_the_folder(name):
    if is_safe_name(name):
        joined = safe_join(Path("/data/x"), name).resolve()
        assert joined != Path("/data/x")
        assert joined.is_relative_to("/data/x")


@pytest.mark.parametrize("name", ["x" * 256, "\u4e00" * 86, "a/" * 2000 + "b"])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    with pytest.raises(UnsafeName):
        safe_join(tmp_path, name)
    assert safe_join(tmp_path, "x" * 255) == tmp_path / ("x" * 255)


@pytest.mark.parametrize("name", ["../0.tar", "/0.tar", "", "a/../../0.tar", "x" * 300])
def test_shard_with_a_name_that_leads_out_of_a_folder_is_refused(name):
    with pytest.raises(UnsafeName, match="is not a path below"):
        Shard(name=name, path="0.tar")


NUM_CHECKED = {
    "core/execute/shards.py": 1,
    "core/settings.py": 1,
    "core/toml_files.py": 1,
    "evaluate/datasets/common/images.py": 2,
    "evaluate/engine.py": 1,
    "evaluate/tasks.py": 1,
    "model/weights.py": 1,
    "plugins/pack_files.py": 4,
    "plugins/world/draw.py": 1,
    "plugins/world/fetch_cldr.py": 2,
    "plugins/world/iconify.py": 1,
    "pool/builders.py": 2,
    "pool/embedded.py": 3,
    "pool/hub.py": 1,
    "pool/listing.py": 1,
    "tools/fetch_dataset.py": 7,
    "tools/fetch_metadata.py": 3,
    "train/checkpoint.py": 3,
}
"""Module that joins or takes names of others -> its calls of safe_join and is_safe_name."""


def test_modules_check_the_names_of_others():
    """A join by `/` in place of safe_join would leave the folder; whoever adds a reader of names adds a row."""
    sources = Path(worldclip.__file__).parent
    calls = {module: read_calls(sources / module) for module in NUM_CHECKED}
    assert calls == NUM_CHECKED


def read_calls(path: Path) -> int:
    return len(re.findall(r"\b(?:safe_join|is_safe_name)\(", path.read_text(encoding="utf-8")))
