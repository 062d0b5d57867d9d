"""A name that others wrote never leads out of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldclip.core.errors import UserError
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
