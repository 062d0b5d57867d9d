"""Ranks against a plain O(n^2) count, on features whose scores tie often and exactly; recall both ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worldclip.evaluate import ranking


def plain_ranks(queries, candidates, right, ties="against"):
    """Sort each query's candidates, of equal scores the wrong (against) or the earlier (first) ones before the others.

    The rank is the number of wrong candidates before the first right one; -1 without a right one.
    """
    found = []
    for q, query in enumerate(queries):
        scores = [float(np.dot(query, candidate)) for candidate in candidates]
        is_right = [(q, c) in right for c in range(len(candidates))]
        order = sorted(range(len(candidates)), key=lambda c: (-scores[c], is_right[c] if ties == "against" else c))
        found.append([is_right[c] for c in order].index(True) if any(is_right) else -1)
    return found


@st.composite
def worlds(draw):
    """Small integers as features: every score is exact, and ties are the rule rather than the exception."""
    num_queries, num_candidates, dim = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    features = st.integers(-2, 2).map(float)
    queries = draw(arrays(np.float32, (num_queries, dim), elements=features))
    candidates = draw(arrays(np.float32, (num_candidates, dim), elements=features))
    pairs = st.tuples(st.integers(0, num_queries - 1), st.integers(0, num_candidates - 1))
    return queries, candidates, draw(st.lists(pairs, max_size=12))


@settings(max_examples=200, deadline=None)
@given(worlds(), st.integers(1, 300), st.sampled_from(["against", "first"]))
def test_ranks_agree_with_plain_sorting_for_any_block_size(world, block_bytes, ties):
    queries, candidates, right = world
    pairs = np.array(right, np.int64).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_BYTES", block_bytes)
        found = ranking.ranks(queries, candidates, pairs[:, 0], pairs[:, 1], ties)
    assert found.tolist() == plain_ranks(queries, candidates, set(right), ties)


@pytest.mark.parametrize(
    ("num_candidates", "dim", "block_bytes"), [(1003, 512, 1), (1003, 512, 50_000), (97, 768, 10**6)]
)
def test_equal_candidates_tie_at_any_position(num_candidates, dim, block_bytes, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block_bytes)  # 1: a query at a time
    random = np.random.default_rng(0)
    candidates = random.standard_normal((num_candidates, dim)).astype(np.float32)
    source, copy = random.permutation(num_candidates)[:80].reshape(2, 40)
    candidates[copy] = candidates[source]
    queries = candidates[source] + 0.1 * random.standard_normal((40, dim)).astype(np.float32)
    found = ranking.ranks(queries, candidates, np.arange(40), source)
    assert found.tolist() == [1] * 40  # its copy alone scores as high, to the last bit
    found = ranking.ranks(queries, candidates, np.arange(40), source, ties="first")
    assert found.tolist() == (copy < source).tolist()
    ids, _ = ranking.top(queries, candidates, 2)
    assert ids.tolist() == np.sort([source, copy], axis=0).T.tolist()


def test_distinct_rows_are_those_that_a_set_has():
    rows = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(np.float32)
    first, row = ranking.distinct_rows(rows)
    assert len(first) == len({tuple(values) for values in rows.tolist()})
    np.testing.assert_array_equal(rows[first][row], rows)
    assert all((rows[:i] != rows[i]).any(axis=1).all() for i in first)


def test_nan_scores_rank_last():
    queries = np.array([[np.nan], [1.0]], np.float32)
    candidates = np.array([[1.0], [0.0], [-1.0]], np.float32)
    for ties in ("against", "first"):
        assert ranking.ranks(queries, candidates, [0, 1], [0, 0], ties).tolist() == [2, 0]
        assert ranking.ranks(queries[1:], np.array([[1.0], [np.nan]], np.float32), [0], [0], ties).tolist() == [1]


def test_pair_out_of_range_is_an_error():
    features = np.ones((2, 1), np.float32)
    with pytest.raises(ValueError, match="candidate 2 is not one of the 2"):
        ranking.ranks(features, features, [0], [2])
    with pytest.raises(ValueError, match="query -1 is not one of the 2"):
        ranking.ranks(features, features, [-1], [0])


def test_queries_without_a_right_candidate_do_not_count():
    assert ranking.share_within(np.array([0, -1, 3]), 1) == 0.5
    with pytest.raises(ValueError, match="nothing to measure"):
        ranking.share_within(np.array([-1, -1]), 1)


def test_top_lists_the_best_first_and_equal_scores_by_id():
    ids, scores = ranking.top(np.array([[1.0]], np.float32), np.array([[1], [3], [3], [2]], np.float32), 3)
    assert ids.tolist() == [[1, 2, 3]]
    assert scores.tolist() == [[3.0, 3.0, 2.0]]


@pytest.mark.parametrize("seed", range(5))
def test_recall_agrees_with_sorting_for_tied_scores(seed):
    random = np.random.default_rng(seed)
    images = random.integers(-1, 2, (12, 3)).astype(np.float32)
    texts = random.integers(-1, 2, (30, 3)).astype(np.float32)
    pair_image, pair_text = random.integers(0, 11, 40), np.arange(40) % 30  # image 11 has no caption, some texts two
    metrics = ranking.recalls(*ranking.retrieval_ranks(images, texts, pair_image, pair_text))
    to_image = set(zip(pair_text.tolist(), pair_image.tolist(), strict=True))
    plain = {
        "image_retrieval": plain_ranks(texts, images, to_image),
        "text_retrieval": plain_ranks(images, texts, {(image, text) for text, image in to_image}),
    }
    for direction, ranks in plain.items():
        asked = [rank for rank in ranks if rank >= 0]
        for k in (1, 5, 10):
            assert metrics[f"{direction}_recall@{k}"] == pytest.approx(np.mean([rank < k for rank in asked]))


def test_chance_is_at_most_one():
    assert ranking.recall_chance(4, 8)["image_retrieval_recall@10"] == 1.0
    assert ranking.recall_chance(4, 8)["text_retrieval_recall@1"] == 0.125
