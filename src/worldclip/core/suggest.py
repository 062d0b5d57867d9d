"""Suggest the known name that an unknown one may mean.  Imports the standard library only: configs use it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MIN_RATIO = 0.6  # share of equal letters
MAX_ABBREVIATION = 3  # letters of a name that may leave out others


def nearest(name: str, names: Iterable[str], most: int = 1) -> list[str]:
    """Return at most `most` of the known names that an unknown one may mean; of equally near ones the first.

    Initials come first (--learning-rate: --lr), then like letters (imagenet: imagenet1k), then abbreviations (hf:
    huggingface).
    """
    wanted = name.casefold().lstrip("-")
    in_order = re.compile(".*".join(map(re.escape, wanted)))
    matcher = difflib.SequenceMatcher(b=wanted)
    scores: dict[str, float] = {}
    for item in names:
        plain = item.casefold().lstrip("-")
        matcher.set_seq1(plain)
        if wanted == _initials(plain) or plain == _initials(wanted):
            scores[item] = 1.0
        elif all(ratio() >= MIN_RATIO for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)):
            scores[item] = matcher.ratio()
        elif 2 <= len(wanted) <= MAX_ABBREVIATION and in_order.match(plain):
            scores[item] = 0.0
    return sorted(scores, key=lambda item: -scores[item])[:most]


def suggest(name: str, names: Iterable[str]) -> str:
    """Return the remedy for an unknown name: the nearest known one, or all of them."""
    near = nearest(name, names)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


def _initials(name: str) -> str:
    """Return the initials of several words, "" of one."""
    words = re.split(r"[-_. ]+", name)
    return "".join(word[:1] for word in words) if len(words) > 1 else ""
