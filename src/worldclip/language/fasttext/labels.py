"""Choose the most probable label from the mean of a text's rows: in a label tree or of a flat output; compiled."""

from __future__ import annotations

import numpy as np

from worldclip.kernels.llvm import LANES, dot_lanes, inner
from worldclip.language.fasttext.model import LOSS_HS

EPS = np.float32(1e-5)  # fastText, std_log: it is added to each probability before the logarithm


@inner
def _dot(output, row, hidden, text):
    dim = hidden.shape[1]
    whole = dim // LANES * LANES
    total = np.float32(0)
    for d in range(0, whole, LANES):
        total += dot_lanes(output, row * dim + d, hidden, text * dim + d)
    for d in range(whole, dim):
        total += output[row, d] * hidden[text, d]
    return total


@inner
def _best_of_softmax(output, num_labels, hidden, text, allowed, scores):
    """Return the most probable allowed label of a softmax over all labels, and its probability."""
    top = np.float32(-np.inf)
    for i in range(num_labels):
        scores[i] = _dot(output, i, hidden, text)
        top = max(top, scores[i])
    total = np.float32(0)
    for i in range(num_labels):
        scores[i] = np.exp(scores[i] - top)
        total += scores[i]
    best, best_prob = np.int32(-1), np.float32(-1)
    for i in range(num_labels):
        if not allowed[i]:
            continue
        prob = scores[i] / total
        if prob + EPS > best_prob:
            best, best_prob = np.int32(i), prob + EPS
    return best, best_prob


@inner
def _best_of_tree(output, left, right, num_labels, hidden, text, allowed, stack_nodes, stack_probs):
    """Return the most probable allowed label of the tree and its probability.

    Depth first, the likelier child first.  A branch less probable than the best label so far is skipped: a
    label is never more probable than a node above it, EPS aside.
    """
    best, best_prob = np.int32(-1), np.float32(-1)
    node, prob = np.int32(2 * num_labels - 2), np.float32(1)  # the root
    depth = 0
    while True:
        while node >= num_labels and prob > best_prob and allowed[node]:
            score = _dot(output, np.int64(node) - num_labels, hidden, text)
            is_right = np.float32(1) / (np.float32(1) + np.exp(-score))
            left_prob = prob * (np.float32(1) - is_right + EPS)
            right_prob = prob * (is_right + EPS)
            goes_right = right_prob > left_prob
            stack_nodes[depth] = left[node] if goes_right else right[node]
            stack_probs[depth] = left_prob if goes_right else right_prob
            depth += stack_probs[depth] > best_prob
            node, prob = (right[node], right_prob) if goes_right else (left[node], left_prob)
        if node < num_labels and prob > best_prob and allowed[node]:
            best, best_prob = node, prob
        if depth == 0:
            return best, best_prob
        depth -= 1
        node, prob = stack_nodes[depth], stack_probs[depth]


@inner
def label_texts(model, hidden, num_rows_T, first, stop, allowed, stack_nodes, stack_probs, label_ids, probs):
    """Write the label and the probability of the texts from `first` to `stop`; a text without rows keeps what it has.

    hidden: (stop - first, dim) float32 sums of rows, which become means.  num_rows_T: numbers of rows.
    """
    output, left, right, num_labels, loss = model.output, model.left, model.right, model.num_labels, model.loss
    for i in range(first, stop):
        text = np.int64(i - first)
        if num_rows_T[text] == 0:
            continue
        scale = np.float32(1.0) / np.float32(num_rows_T[text])
        for d in range(hidden.shape[1]):
            hidden[text, d] *= scale
        if loss == LOSS_HS:
            label, prob = _best_of_tree(
                output, left, right, num_labels, hidden, text, allowed, stack_nodes, stack_probs
            )
        else:
            label, prob = _best_of_softmax(output, num_labels, hidden, text, allowed, stack_probs)
        label_ids[i], probs[i] = label, min(max(prob, np.float32(0)), np.float32(1))
