"""Explain a run: why a pair was kept or dropped, what an entry is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from worldclip import pool
from worldclip.balance.stage import describe_entries
from worldclip.contracts import layout, schemas
from worldclip.contracts.matched import read_matched_texts
from worldclip.contracts.reasons import REASONS, Reason
from worldclip.contracts.records import skipped_shards
from worldclip.contracts.summary import REMEDIES
from worldclip.core import artifacts, coin, keys
from worldclip.core.arrow import list_buffers
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.job import Report, Run
from worldclip.core.printable import one_line
from worldclip.core.suggest import nearest
from worldclip.curate.candidates import CurateWork, Decision, decide_on
from worldclip.curate.config import CurateConfig
from worldclip.curate.stage import online_work
from worldclip.language.config import open_run
from worldclip.language.identify import MIN_WORDS_PROB, NO_LABEL
from worldclip.match.stage import match_work
from worldclip.match.texts import Matched, MatchWork, match_pool_texts, matched_table
from worldclip.pool.config import PoolConfig
from worldclip.pool.stage import skipped_lines

NUM_SAMPLES = 10  # texts shown of an entry, chosen by hash
NEAR_AMONG = 200_000  # entries searched for similar names
NOT_DRAWN = "not_drawn"  # no reason of a pair, but of a text: another text of its key was drawn
MAX_ENTRIES = 10  # entries of a text that are listed


def inspect_key(run: str | Path, key: str) -> Report:
    """Explain what was decided on a key: its texts, their languages, entries, probabilities and coins.

    Reads the key's shard and matches its texts again.  Raises UserError if the pool lacks the key.

    Keys: key, shard, text_policy, is_valid, kept, texts; where they apply not_valid_because and draw (of text_policy
    one: coin, among, share of the draws that give this text, text_idx).  Of each text, as far as it got: text_idx,
    text, place (of pool.texts), reason (a name of contracts.reasons, or not_drawn), problem, lid_label, lang_prob,
    lang, entries, keep_prob, coin.
    """
    context = open_run(Path(run))
    artifacts.require_manifest(context.dir, "balance")
    shard = _find_shard(context, key)
    matching = match_work(context)
    work = online_work(context)
    config = work.config
    pool_texts = pool.read_pairs(context.dir, shard.name, pool.EVERY_KEY)  # is_valid says what the lists do
    pool_texts = pool_texts.take(np.flatnonzero(pc.equal(pool_texts.key, key).to_numpy(zero_copy_only=False)))
    decided = decide_again(shard, pool_texts, matching, work)
    texts = _explain_texts(context, shard, pool_texts, matching, decided)
    is_valid = bool(keys.is_valid(pa.array([key]), work.key_lists, shard.name)[0])
    explained: Report = {
        "key": key,
        "shard": shard.name,
        "text_policy": config.text_policy,
        "is_valid": is_valid,
        "kept": any(text["reason"] == Reason.KEPT.label for text in texts),
        "texts": texts,
    }
    if not is_valid:
        explained["not_valid_because"] = _why_not_valid(key, work.key_lists, shard.name)
    candidates = decided.decision.candidates
    weights = candidates.draw_weight_T
    if config.text_policy == "one" and weights.any():
        (row,) = decided.decision.drawn_K
        explained["draw"] = {
            "coin": coin.uniform(key, 0, config.seed, 0, coin.TEXT_DRAW),
            "among": int(np.count_nonzero(weights)),
            "share": float(weights[row] / weights.sum()),
            "text_idx": int(candidates.text_idx_T[row]),
        }
    return explained


class Decided(NamedTuple):
    """The decisions of match and curate on texts of a shard."""

    matched: Matched
    decision: Decision
    """On the texts with a match."""
    reason: np.ndarray
    """(T,) int8 codes of all texts, -1 for one that was not drawn."""
    keep_prob: np.ndarray
    """(T,) float64, NaN without a match."""


def decide_again(shard: Shard, pool_texts: pool.PoolTexts, matching: MatchWork, work: CurateWork) -> Decided:
    """Match texts of a shard, all of each of their keys, and decide on them as the stages did."""
    matched = match_pool_texts(pool_texts, matching)
    table = matched_table(matched, matching)
    texts = pool_texts.take(table["row"].to_numpy())
    for name in ("key", "text_idx", "place"):  # as in read_matched_texts
        table = table.append_column(name, pa.array(getattr(texts, name)))
    candidates = work.candidates(table, shard.name)
    probs = work.keep_probs(table, candidates)
    decision = decide_on(candidates, probs, work.config)
    has_match = matched.reason == Reason.KEPT
    reason = matched.reason.copy()
    reason[has_match] = decision.reason_T
    keep_prob = np.full(len(reason), np.nan)
    keep_prob[has_match] = probs
    return Decided(matched, decision, reason, keep_prob)


def _why_not_valid(key: str, lists: Sequence[keys.KeyList], shard: str) -> list[str]:
    """Return a line for each list that excludes `key` of that shard; [] if none does.

    A valid list that `worldclip pool check` wrote is next to removed.parquet, which names the rule.
    """
    lines = []
    for key_list in lists:
        if keys.is_valid(pa.array([key]), [key_list], shard)[0]:
            continue
        if key_list.setting != "pool.valid_keys":
            lines.append(f"denied: it is in {key_list.setting} {key_list.path}")
            continue
        path = Path(key_list.path).with_name("removed.parquet")
        rows = ds.dataset(path).to_table(filter=pc.field("key") == key).to_pylist() if path.is_file() else []
        for row in rows:
            line = f"removed by {row['rule']} in {row['shard']}"
            if row["other_key"] is not None:
                line += f" for {row['other_key']}"
            if row["distance"] is not None:
                line += f" at distance {row['distance']}"
            lines.append(f"{line}: {path}")
        if not rows:
            lines.append(f"it is not in {key_list.setting} {key_list.path}")
    return lines


def _find_shard(run: Run, key: str) -> Shard:
    """Return the shard that holds `key`.  Of several, the first that keeps it.

    Raises UserError for a key that is in no shard, and says by which condition pool.where leaves it out.
    """
    shards = pool.indexed_shards(run)
    is_key = pc.field("key") == key
    for path_of in (layout.curated, layout.pool_pairs):
        for shard in shards:
            path = path_of(run.dir, shard.name)
            if path.exists() and ds.dataset(path).count_rows(filter=is_key):
                return shard
    config = run.section(PoolConfig)
    for shard in shards:
        if not pool.num_left_out(run.dir, shard.name):
            continue  # a shard is read again only for what it does not show
        condition = pool.left_out_by(shard, pool.options_of(config, shard.name), key)
        if condition is not None:
            raise UserError(f"--key {key!r}: pool.where leaves it out of {shard.name}: {condition}")
    first_keys, _, _ = pool.read_keys(run.dir, shards[0].name)
    example = f"keys look like {first_keys[0].as_py()!r}" if len(first_keys) else "its first shard has no keys"
    remarks = "; ".join([example, *skipped_lines(skipped_shards(run.dir))])
    # the places of a pool may have different keys
    columns = dict.fromkeys(repr(pool.options_of(config, shard.name).key) for shard in shards)
    raise UserError(f"--key {key!r}: not a key of this run's pool (pool.key = {' or '.join(columns)}); {remarks}")


def _explain_texts(
    run: Run, shard: Shard, pool_texts: pool.PoolTexts, work: MatchWork, decided: Decided
) -> list[Report]:
    """Return a row for each text of a key, with what is known of it as far as it got."""
    matched = decided.matched
    texts = []
    places = pool.options_of(work.pool, shard.name).texts
    for row, code in enumerate(decided.reason.tolist()):
        text: Report = {
            "text_idx": pool_texts.text_idx[row].as_py(),
            "text": pool_texts.text[row].as_py(),
            "place": places[pool_texts.place[row]] if places and pool_texts.place[row] >= 0 else None,
            "reason": NOT_DRAWN if code < 0 else REASONS[code].label,
        }
        if code == Reason.BAD_PAIR:
            text["problem"] = pool_texts.details[row]
        if matched.reason[row] >= Reason.NO_LANGUAGE:
            text["lid_label"] = str(matched.labels[row])
            text["lang_prob"] = float(matched.lang_prob[row])
        if matched.reason[row] >= Reason.NO_MATCH:
            text["lang"] = work.rules.languages[matched.lang[row]]
        if matched.reason[row] == Reason.KEPT:
            ids = matched.entry_ids[matched.offsets[row] : matched.offsets[row + 1]]
            entries = describe_entries(run.dir, work.match.entry_lists.list_of(text["lang"]), ids)
            text["entries"] = [{"entry_id": i, **entry} for i, entry in zip(ids.tolist(), entries, strict=True)]
            text["keep_prob"] = float(decided.keep_prob[row])
        if code in (Reason.SAMPLED_OUT, Reason.KEPT):
            seed = run.section(CurateConfig).seed
            text["coin"] = coin.uniform(pool_texts.key[row].as_py(), text["text_idx"], seed, 0)
        texts.append(text)
    return texts


def inspect_entry(run: str | Path, entry: str, lang: str) -> Report:
    """Explain how often an entry matched, whether it is head or tail, and show some texts that it matched.

    lang: the list, a language of the run (or `merged`).  Raises UserError for an unknown list or entry.
    """
    run_dir = Path(run)
    artifacts.require_manifest(run_dir, "balance")
    lists = artifacts.read_json(layout.thresholds(run_dir))["lists"]
    if lang not in lists:
        raise UserError(f"--lang {lang!r}: not a list of this run; its lists are {', '.join(lists)}")
    entries = artifacts.read_table(layout.entries(run_dir, lang), schemas.METADATA, ["entry"])["entry"]
    entry_id = pc.index(entries, entry).as_py()
    if entry_id < 0:
        near = nearest(entry, entries.slice(0, NEAR_AMONG).to_pylist(), most=3)
        remedy = f"did you mean {', '.join(map(repr, near))}?" if near else "spell it as the list does"
        raise UserError(f"--entry {entry!r} is not in list {lang}; {remedy}")
    (row,) = describe_entries(run_dir, lang, np.array([entry_id]))
    counts = np.load(layout.entry_counts(run_dir, lang), mmap_mode="r", allow_pickle=False)
    threshold = lists[lang]["threshold"]
    columns = ["key", "text_idx", "text", "entries_lang", "entry_ids"]
    samples: list[Report] = []
    for name in layout.matched_shards(run_dir):
        table = read_matched_texts(run_dir, name, columns)
        table = table.filter(pc.equal(table.column("entries_lang").cast(pa.string()), lang))
        ids, offsets = list_buffers(table.column("entry_ids"))
        hits = np.flatnonzero(ids[offsets[0] : offsets[-1]] == entry_id) + offsets[0]
        rows = np.searchsorted(offsets, hits, side="right") - 1  # the text that each hit is in
        hit_texts = table.select(columns[:3]).take(pa.array(rows)).to_pylist()
        samples = coin.sample_records([*samples, *hit_texts], NUM_SAMPLES)
    return {
        "lang": lang,
        "entry_id": entry_id,
        **row,
        "threshold": threshold,
        "is_head": threshold is not None and row["matches"] >= threshold,
        "rank": int(np.count_nonzero(counts > counts[entry_id])) + 1,
        "samples": samples,
    }


# --- as text: the verdict first, then how it came about --------------------------------------------------------------


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
        place = f" ({text['place']})" if has_places else ""
        lines.append(f"  text {text['text_idx']} {text['text']!r}{place}: {text['reason']}")
        if "problem" in text:
            lines.append(f"    {one_line(text['problem'])}")
        if "lang_prob" in text:
            line = f"    label {text['lid_label']} ({text['lang_prob']:.2f})"
            if "lang" in text:
                line += f", language {text['lang']}"
            lines.append(line)
        entries = sorted(text.get("entries", ()), key=lambda entry: -entry["prob"])
        for entry in entries[:MAX_ENTRIES]:
            numbers = f"{entry['matches']:,} matches, {entry['prob']:.4f}"
            lines.append(f"    {entry['entry']!r} ({entry['source']}): {numbers}")
        if len(entries) > MAX_ENTRIES:
            lines.append(f"    and {len(entries) - MAX_ENTRIES} more entries (--json lists all)")
        if "keep_prob" in text:
            line = f"    probability {text['keep_prob']:.4f}"
            if "coin" in text:
                line += f", coin {text['coin']:.4f}"
            lines.append(line)
    return "\n".join(lines)


def verdict(explained: Report) -> str:
    """Return in one sentence whether a key is kept, and what decided on the text that came furthest."""
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


def entry_to_text(explained: Report) -> str:
    """Return what inspect_entry explains as lines of text."""
    threshold = f"{explained['threshold']:,}" if explained["threshold"] is not None else "none (no match in this list)"
    kind = "head" if explained["is_head"] else "tail"
    numbers = f"{explained['matches']:,} matches, rank {explained['rank']:,}, threshold {threshold}"
    lines = [
        f"{explained['entry']!r} of {explained['lang']} (entry {explained['entry_id']}, {explained['source']}): {kind}",
        f"  {numbers}, keeps {explained['prob']:.4f}",
    ]
    lines += [f"  {sample['key']} {sample['text_idx']}: {sample['text']}" for sample in explained["samples"]]
    return "\n".join(lines)


@Command
def inspect(run: Path, *, key: str | None = None, entry: str | None = None, lang: str = "en") -> tuple[Any, str]:
    """Explain why a pair was kept or dropped, or what an entry is worth.

    run: folder of a run.
    key: key of a pair: why it was kept or dropped.
    entry: an entry: how often it matched, and its probability.
    lang: list of the entry, a language of the run.

    Examples:
        worldclip inspect runs/my_images --key 00000/000123
        worldclip inspect runs/my_images --entry car --lang en
    """
    if (key is None) == (entry is None):
        raise UserError("give --key or --entry, one of them; worldclip status RUN says what each stage has done")
    if key is not None:
        explained_key = inspect_key(run, key)
        return explained_key, key_to_text(explained_key)
    assert entry is not None
    explained_entry = inspect_entry(run, entry, lang)
    return explained_entry, entry_to_text(explained_entry)
