"""The two profiles in plain Python."""

from __future__ import annotations

import sys

import pytest

from worldclip.core.errors import UserError
from worldclip.language.profiles import normalise, profile_name


def test_reference_profile_spaces_exactly_seven_marks():
    assert normalise("\u00a0Hi,there. x;y:z?!`'\t\n\r(ok)\x1c", "reference") == (
        " Hi , there .  x ; y : z ?  !  ` '   (ok) "
    )


@pytest.mark.parametrize(
    ("text", "unicode", "folded"),
    [
        ("  Cafe\u0301\u3000\u00a0 au  LAIT\n", "Café au LAIT", "café au lait"),
        ("Straße", "Straße", "strasse"),
        ("\u0130stanbul", "\u0130stanbul", "i\u0307stanbul"),
        ("\x1cx\x1f", "\x1cx\x1f", "\x1cx\x1f"),
        (" \u2028 ", "", ""),
        ("\u0958", "\u0915\u093c", "\u0915\u093c"),
    ],
)
def test_unicode_profiles_compose_and_collapse_whitespace(text, unicode, folded):
    assert normalise(text, "unicode") == unicode
    assert normalise(text, "unicode_fold") == folded


def test_invalid_profile_names_raise():
    assert profile_name("unicode", fold_case=True) == profile_name("unicode_fold") == "unicode_fold"
    with pytest.raises(UserError, match=r"match\.profile is 'latin'; it must be one of reference, unicode"):
        profile_name("latin")
    with pytest.raises(UserError, match="only profile 'unicode' folds case"):
        profile_name("reference", fold_case=True)


def test_profiles_import_no_kernels():
    """The plain definition can be read and used without compiling anything."""
    assert "numba" not in vars(sys.modules["worldclip.language.profiles"])
