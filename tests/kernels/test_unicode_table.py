"""The committed table of code points against unicodedata."""

import unicodedata

import numpy as np
import pytest

from unicode_builder import build_categories, build_table
from worldclip.kernels import unicode_table
from worldclip.kernels.unicode_table import (
    FOLDS,
    MARK,
    NFC_NO,
    SIMILAR_TO_CJK,
    SPACE,
    SPACED,
    load_categories,
    load_table,
)

has_unicode_of_the_table = pytest.mark.skipif(
    unicodedata.unidata_version != unicode_table.UNICODE_VERSION,
    reason=f"this Python has Unicode {unicodedata.unidata_version}, the table is of {unicode_table.UNICODE_VERSION}",
)


@has_unicode_of_the_table
def test_committed_table_agrees_with_unicodedata():
    for name, built, stored in zip(load_table()._fields, build_table(), load_table(), strict=True):
        assert built.dtype == stored.dtype, name
        np.testing.assert_array_equal(built, stored, err_msg=name)
    np.testing.assert_array_equal(build_categories(), load_categories())


def test_characters_compose_and_fold_alike_on_this_python():
    """Matches do not depend on the Python version, because these properties are frozen for assigned characters."""
    table = load_table()
    folds = {
        int(c): "".join(map(chr, table.folded[table.fold_index[k] : table.fold_index[k + 1]]))
        for k, c in enumerate(table.fold_from)
    }
    for c in np.flatnonzero(table.classes).tolist():
        assert (unicodedata.normalize("NFC", chr(c)) != chr(c)) == bool(table.classes[c] & NFC_NO), hex(c)
        assert chr(c).casefold() == folds.get(c, chr(c)), hex(c)
        assert unicodedata.combining(chr(c)) == table.classes[c] >> unicode_table.COMBINING_SHIFT, hex(c)


def test_buffers_of_kernels_hold_the_longest_expansions():
    """Folding writes at most 3 bytes per byte, decomposing at most 2 code points per byte."""
    for c in [*load_table().decompose_from.tolist(), *load_table().fold_from.tolist(), 0xAC01]:
        size, folded = len(chr(c).encode()), chr(c).casefold()
        assert len(folded.encode()) <= 3 * size
        assert len(unicodedata.normalize("NFD", chr(c))) <= 1.5 * size
        assert len(unicodedata.normalize("NFD", folded)) <= 2 * size


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("a", SPACED), ("7", SPACED), ("ё", SPACED), ("ب", SPACED), ("हि"[1], SPACED | MARK), ("\u200d", SPACED),
        ("가", SPACED), ("-", 0), ("_", 0), ("'", 0), ("ー", 0), ("ネ", 0), ("猫", 0), ("ก", 0), ("่", MARK),
        (" ", SPACE), ("\u00a0", SPACE), ("\u3000", SPACE), ("\x1c", 0), ("\u0378", 0), ("\U0001f408", 0),
    ],
)  # fmt: skip
def test_class_of_a_character(character, expected):
    assert load_table().classes[ord(character)] & (SPACED | MARK | SPACE) == expected


def test_similar_to_cjk_includes_punctuation_but_not_kana():
    similar = [x for x in "猫ก『～—-`@カねー0a ·¿" if load_table().classes[ord(x)] & SIMILAR_TO_CJK]
    assert similar == list("猫ก『～—-`@")


def test_folds_flag_marks_exactly_the_characters_that_fold():
    assert [x for x in "AaßǅπΣ1" if load_table().classes[ord(x)] & FOLDS] == list("AßǅΣ")
