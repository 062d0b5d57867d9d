"""The keep decision on paper: probabilities of texts, the draw among those of an image, and the toss of its coin."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip import curate
from worldclip.core import coin
from worldclip.curate.decide import decide, draw_weights


def test_offsets_of_entries_may_start_later():
    assert curate.keep_prob(np.array([2, 1]), np.array([1, 2]), [0, 0.5, 1]).tolist() == [0.5]


def test_keep_prob_refuses_what_does_not_fit():
    for ids, offsets in (([0, 3], [0, 2]), ([-1], [0, 1]), ([0], [0, 2]), ([0], [1, 0]), ([0], [])):
        with pytest.raises(ValueError):
            curate.keep_prob(ids, offsets, [0.5, 0.5, 0.5])


def decide_plainly(policy, key, rows, weight_of_place, seed, epoch):
    """Return (the drawn row, -1 for none; the kept rows) of a key; rows: (is drawable, place, probability)."""
    rows_left = [i for i, (is_drawable, place, _) in enumerate(rows) if is_drawable and weight_of_place[place]]
    drawn = -1
    if policy == "one" and rows_left:
        num_of_place = Counter(rows[i][1] for i in rows_left)
        weights = [weight_of_place[rows[i][1]] / num_of_place[rows[i][1]] for i in rows_left]
        point = coin.uniform(key, 0, seed, epoch, coin.TEXT_DRAW) * sum(weights)
        while point >= weights[0]:
            point -= weights.pop(0)
            rows_left.pop(0)
        drawn = rows_left[0]
        rows_left = [drawn]
    return drawn, [i for i in rows_left if coin.uniform(key, i, seed, epoch) < rows[i][2]]


ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.floats(0, 1)), min_size=1, max_size=6)


@settings(deadline=None)
@given(
    st.sampled_from(["one", "all"]),
    st.dictionaries(st.text(max_size=6), ROWS.map(lambda rows: sorted(rows, key=lambda row: row[1])), max_size=8),
    st.tuples(*[st.sampled_from([0, 1, 2, 0.25, 64])] * 3),
    st.integers(0, 2**63 - 1),
    st.integers(0, 1000),
)
def test_the_decision_agrees_with_a_plain_one(policy, rows_of_key, weight_of_place, seed, epoch):
    keys = list(rows_of_key)
    starts = np.cumsum([0, *map(len, rows_of_key.values())])
    flat = [row for rows in rows_of_key.values() for row in rows]
    place = np.array([row[1] for row in flat], np.int16)
    drawable = np.array([row[0] and weight_of_place[row[1]] > 0 for row in flat], np.bool_)
    text_idx = np.array([i for rows in rows_of_key.values() for i in range(len(rows))], np.int32)
    weights = draw_weights(starts, drawable, place, weight_of_place)
    probs = np.array([row[2] for row in flat], np.float64)
    kept, drawn = decide(policy, coin.hash_keys(keys), starts, text_idx, weights, probs, seed=seed, epoch=epoch)
    for k, (key, rows) in enumerate(rows_of_key.items()):
        row, kept_rows = decide_plainly(policy, key, rows, weight_of_place, seed, epoch)
        assert drawn[k] == (row if row < 0 else starts[k] + row)
        assert np.flatnonzero(kept[starts[k] : starts[k + 1]]).tolist() == kept_rows
