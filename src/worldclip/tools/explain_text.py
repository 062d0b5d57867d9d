"""The texts of `worldclip inspect` on a key and on an entry: the verdict first, then how it came about."""

from __future__ import annotations

from worldclip.contracts.reasons import REASONS, Reason
from worldclip.contracts.summary import REMEDIES
from worldclip.core.job import Report
from worldclip.core.printable import one_line
from worldclip.language.identify import MIN_WORDS_PROB, NO_LABEL

NOT_DRAWN = "not_drawn"  # no reason of a pair, but of a text: another text of its key was drawn
MAX_ENTRIES = 10  # entries of a text that are listed


def key_to_text(explained: Report) -> str:
    """Return what inspect_key explains as lines of text."""
    lines = [f"{one_line(explained['key'])} in {one_line(explained['shard'])}: {verdict(explained)}"]
    lines += [f"  {one_line(line)}" for line in explained.get("not_valid_because", ())]
    if "draw" in explained:
        draw = explained["draw"]
        numbers = f"share {draw['share']:.4f}, coin {draw['coin']:.4f}"
        lines.append(f"  text {draw['text_idx']} drawn among {draw['among']} ({numbers})")
    has_places = len({text["place"] for text in explained["texts"]}) > 1
    for text in explained["texts"]:
        lines += _text_lines(text, has_places)
    return "\n".join(lines)


def verdict(explained: Report) -> str:
    """Return in one sentence whether a key is kept, and what decided: of the text that came furthest."""
    order = {reason.label: int(reason) for reason in REASONS} | {NOT_DRAWN: -1}
    text = max(explained["texts"], key=lambda text: order[text["reason"]])
    reason = Reason[text["reason"].upper()]
    if reason is Reason.KEPT:
        return f"kept: its draw {text['coin']:.4f} is below its probability {text['keep_prob']:.4f}; {_strongest(text)}"
    if reason is Reason.SAMPLED_OUT:
        numbers = f"its draw {text['coin']:.4f} is above its probability {text['keep_prob']:.4f}"
        return f"dropped: {numbers}; {_strongest(text)}"
    if reason is Reason.BAD_PAIR:
        return f"dropped: unreadable, {one_line(text['problem'])}; {REMEDIES[reason]}"
    if reason is Reason.NO_LANGUAGE:
        label = f"{text['lid_label']} ({text['lang_prob']:.2f})"
        if text["lid_label"] == NO_LABEL or text["lang_prob"] < MIN_WORDS_PROB:
            return f"dropped: it is of no likely language ({label}), as noise, names and very short texts are"
        return f"dropped: its language {label} has no list in this run, or is below match.min_lang_prob"
    if reason is Reason.NO_MATCH:
        return f"dropped: it contains no entry of the list of {text['lang']}"
    return f"dropped: {reason.meaning.partition(': ')[2] or reason.meaning}"


def _strongest(text: Report) -> str:
    """Name the entry that is worth most."""
    best = max(text["entries"], key=lambda entry: entry["prob"])
    return f"strongest entry {best['entry']!r} ({best['matches']:,} matches, {best['prob']:.4f})"


def _text_lines(text: Report, has_places: bool) -> list[str]:
    place = f" ({text['place']})" if has_places else ""
    lines = [f"  text {text['text_idx']} {text['text']!r}{place}: {text['reason']}"]
    if "problem" in text:
        lines.append(f"    {one_line(text['problem'])}")
    if "lang_prob" in text:
        lang = f", language {text['lang']}" if "lang" in text else ""
        lines.append(f"    label {text['lid_label']} ({text['lang_prob']:.2f}){lang}")
    entries = sorted(text.get("entries", ()), key=lambda entry: -entry["prob"])
    lines += [
        f"    {entry['entry']!r} ({entry['source']}): {entry['matches']:,} matches, {entry['prob']:.4f}"
        for entry in entries[:MAX_ENTRIES]
    ]
    if len(entries) > MAX_ENTRIES:
        lines.append(f"    and {len(entries) - MAX_ENTRIES} more entries (--json lists all)")
    if "keep_prob" in text:
        coin_text = f", coin {text['coin']:.4f}" if "coin" in text else ""
        lines.append(f"    probability {text['keep_prob']:.4f}{coin_text}")
    return lines


def entry_to_text(explained: Report) -> str:
    """Return what inspect_entry explains as lines of text."""
    threshold = f"{explained['threshold']:,}" if explained["threshold"] is not None else "none (no match in this list)"
    return "\n".join(
        [
            f"{explained['entry']!r} of {explained['lang']} (entry {explained['entry_id']}, {explained['source']}): "
            f"{'head' if explained['is_head'] else 'tail'}",
            f"  {explained['matches']:,} matches, rank {explained['rank']:,}, threshold {threshold}, "
            f"keeps {explained['prob']:.4f}",
            *(f"  {sample['key']} {sample['text_idx']}: {sample['text']}" for sample in explained["samples"]),
        ]
    )
