"""Texts of errors."""

from __future__ import annotations

import pytest

from worldclip.core.errors import first_line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (EOFError("\n"), "EOFError"),
        (KeyError("key"), "'key'"),
    ],
)
def test_first_line_of_an_error_is_its_text_or_its_kind(error: Exception, expected: str) -> None:
    assert first_line(error) == expected
