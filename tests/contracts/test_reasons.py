"""The list of reasons is the order of the identity in docs and reports."""

from __future__ import annotations

import numpy as np

from worldclip.contracts.reasons import REASONS, Reason


def test_reasons_stand_in_the_order_in_which_they_apply():
    assert [reason.label for reason in REASONS] == [
        *("left_out", "bad_pair", "duplicate", "no_text", "no_language", "no_match"),
        *("not_valid", "excluded", "sampled_out", "kept"),
    ]
    assert [int(reason) for reason in REASONS] == list(range(len(REASONS)))
    assert Reason.KEPT.column == "pairs_out"


def test_reasons_are_codes_of_int8_columns():
    column = np.array([Reason.KEPT, Reason.NO_TEXT], np.int8)
    assert (column == Reason.KEPT).tolist() == [True, False]
    assert REASONS[column[1]] is Reason.NO_TEXT


def test_every_reason_has_its_own_colour_and_meaning():
    assert len({reason.colour for reason in REASONS}) == len({reason.meaning for reason in REASONS}) == len(REASONS)
