"""Say in one line what became of the texts or pairs that went into a stage, and stop a run that keeps none."""

from __future__ import annotations

from collections.abc import Mapping

from worldclip.contracts.reasons import Reason
from worldclip.core.errors import UserError

NUM_LABELS = 3  # labels of texts without a language of the run that a line names

WORDS = {
    Reason.BAD_PAIR: "unreadable",
    Reason.DUPLICATE: "with a repeated key",
    Reason.NO_TEXT: "without text",
    Reason.NO_LANGUAGE: "without a language of the run",
    Reason.NO_MATCH: "without a match",
    Reason.NOT_VALID: "not valid or denied",
    Reason.EXCLUDED: "excluded",
    Reason.SAMPLED_OUT: "sampled out",
}
REMEDIES = {
    Reason.BAD_PAIR: "texts must be UTF-8 (convert Latin-1), .json objects, image files where the table says",
    Reason.DUPLICATE: "pool.key does not tell the pairs apart; set it to a field or column that does",
    Reason.NO_TEXT: "set pool.texts to where the captions are: txt, json:FIELD or a column",
    Reason.NO_LANGUAGE: "add the languages to languages.codes, send labels to a list by match.merge_labels, or lower "
    "match.min_lang_prob if it is set",
    Reason.NO_MATCH: "compare the texts with the lists, RUN/metadata/LANG.parquet",
    Reason.NOT_VALID: "pool.valid_keys and pool.deny_keys must hold keys as pool.key makes them",
    Reason.EXCLUDED: "see curate.include and curate.exclude",
    Reason.SAMPLED_OUT: "the thresholds or curate.max_pairs are too low: worldclip estimate RUN",
}


def what_became(
    verb: str, kept: int, total: int, unit: str, dropped: Mapping[Reason, int], labels: Mapping[str, int] | None = None
) -> str:
    """Return `5,814 of 8,917 pairs kept; 461 without a language of the run (th 269, ...); ...`, most frequent first.

    labels: texts per language label that has no list, or is below match.min_lang_prob.
    """
    parts = [f"{kept:,} of {total:,} {unit} {verb}"]
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        names = ""
        if reason is Reason.NO_LANGUAGE and labels:
            shown = [f"{label} {number:,}" for label, number in list(labels.items())[:NUM_LABELS]]
            names = f" ({', '.join([*shown, '...'] if len(labels) > NUM_LABELS else shown)})"
        parts.append(f"{count:,} {WORDS[reason]}{names}")
    return "; ".join(parts)


def refuse_nothing(kept: int, summary: str, dropped: Mapping[Reason, int]) -> None:
    """Raise UserError if nothing is kept, with the remedy for the largest reason."""
    if kept == 0 and dropped:
        largest = max(dropped, key=lambda reason: dropped[reason])
        raise UserError(f"{summary}; {REMEDIES[largest]}")
