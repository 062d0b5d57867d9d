"""Why a pair was kept or dropped, what an entry is worth, what a file holds."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip import pool
from worldclip.check.removed import why_not_valid
from worldclip.core import artifacts, coin, keys
from worldclip.core.arrow import list_buffers
from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.curate.caps import read_bounds
from worldclip.curate.config import CurateConfig
from worldclip.curate.decide import keep_prob
from worldclip.curate.stage import curate_work
from worldclip.match.stage import REASONS, match_pool_texts, match_work
from worldclip.pool.config import PoolConfig

if TYPE_CHECKING:
    from worldclip.core.execute import Shard

NUM_SAMPLES = 10  # texts shown of an entry, chosen by hash
NEAR_AMONG = 200_000  # entries searched for near names


def inspect_key(run: str | Path, key: str) -> dict[str, Any]:
    """Everything that decided on a key of the pool: its texts, their languages, entries, probabilities and coins.

    Returns {key, shard, text_policy, is_valid, not_valid_because (lines, where it is not), kept, texts: [{text_idx,
    text, reason, lang, lid_label, lang_prob, entries: [{entry_id, entry, source, matches, prob}], keep_prob, coin}]}.
    reason: as in curate's report, or `kept`, or under text_policy one `not_drawn`; then also draw: {coin, among,
    text_idx}.  A text over a cap is `excluded` and has the `cap`.  Reads the shard again.  Raises UserError where
    the pool lacks the key.
    """
    context = Run.open(Path(run))
    run_dir, config = context.dir, context.section(CurateConfig)
    key_lists = pool.key_lists(context)
    artifacts.require_manifest(run_dir, "balance")
    shard = _find_shard(context, key)
    bounds = read_bounds(run_dir, config)
    texts = _explain_texts(context, shard, key)
    is_valid = bool(keys.is_valid(pa.array([key]), key_lists, shard.name)[0])
    for row in texts:
        if row["reason"] == "matched":
            excluded = config.is_excluded(row["lang"])
            row["reason"] = "not_valid" if not is_valid else "excluded" if excluded else "sampled_out"
    drawable = [row for row in texts if row["reason"] == "sampled_out"]
    found = {"key": key, "shard": shard.name, "text_policy": config.text_policy, "is_valid": is_valid}
    if not is_valid:
        found["not_valid_because"] = why_not_valid(key, key_lists, shard.name)
    if config.text_policy == "one" and drawable:
        u = coin.uniform(key, 0, config.seed, 0, coin.TEXT_DRAW)
        drawn = drawable[int(u * len(drawable))]
        found["draw"] = {"coin": u, "among": len(drawable), "text_idx": drawn["text_idx"]}
        for row in drawable:
            row["reason"] = "not_drawn"
        drawable = [drawn]
    for row in drawable:
        row["coin"] = coin.uniform(key, row["text_idx"], config.seed, 0)
        row["reason"] = "kept" if row["coin"] < row["keep_prob"] else "sampled_out"
        if row["reason"] == "kept" and row["coin"] / row["keep_prob"] >= bounds.get(row["lang"], np.inf):
            row |= {"reason": "excluded", "cap": config.cap_of(row["lang"])}
    return {**found, "kept": any(row["reason"] == "kept" for row in texts), "texts": texts}


def _find_shard(run: Run, key: str) -> Shard:
    """The shard that holds `key`: by the index of images and by the matched texts, else by reading the pool's texts."""
    shards = pool.shards(run)
    config = run.section(PoolConfig)
    for folder in (run.dir / "pool" / "index", run.dir / "match" / "texts"):
        for shard in shards:
            path = folder / f"{shard.name}.parquet"
            if path.exists() and _has(pq.read_table(path, columns=["key"]).column("key"), key):
                return shard
    for shard in shards:
        if _has(pool.read_texts(shard, config).key, key):
            return shard
    known = pool.read_keys(shards[0], config)[0]
    looks = f"they look like {known[0].as_py()!r}" if len(known) else "its first shard has none"
    raise UserError(f"--key {key!r} is no key of this run's pool (pool.key = {config.key!r}); {looks}")


def _has(column: pa.Array | pa.ChunkedArray, key: str) -> bool:
    return bool(pc.any(pc.equal(column, key)).as_py())


def _explain_texts(run: Run, shard: Shard, key: str) -> list[dict[str, Any]]:
    """The rows of one key, matched again; a text that matches has entries and keep_prob."""
    work, probs = match_work(run), curate_work(run)
    pool_texts = pool.read_texts(shard, run.section(PoolConfig))
    matched = match_pool_texts(pool_texts, work)
    rows = []
    for row in np.flatnonzero(pc.equal(pool_texts.key, key).to_numpy(zero_copy_only=False)):
        reason = REASONS[matched.reason[row]]
        found: dict[str, Any] = {"text_idx": pool_texts.text_idx[row].as_py(), "text": pool_texts.text[row].as_py()}
        found["reason"] = reason
        if reason in ("no_language", "no_match", "matched"):
            found |= {"lid_label": str(matched.labels[row]), "lang_prob": float(matched.lang_prob[row])}
        if reason in ("no_match", "matched"):
            found["lang"] = work.languages[matched.lang[row]]
        if reason == "matched":
            name = work.match.entry_lists.list_of(found["lang"])
            ids = matched.entry_ids[matched.offsets[row] : matched.offsets[row + 1]]
            found["entries"] = _describe_entries(run.dir, name, ids)
            found["keep_prob"] = float(keep_prob(ids, [0, len(ids)], probs.entry_probs(name))[0])
        rows.append(found)
    return rows


def _describe_entries(run_dir: Path, list_name: str, entry_ids: np.ndarray) -> list[dict[str, Any]]:
    """entry, source, matches and prob of entries of one list."""
    table = artifacts.read_table(run_dir / "metadata" / f"{list_name}.parquet", artifacts.METADATA, ["entry", "source"])
    counts = np.load(run_dir / "balance" / "counts" / f"{list_name}.npy", mmap_mode="r", allow_pickle=False)
    probs = np.load(run_dir / "balance" / f"{list_name}.npy", mmap_mode="r", allow_pickle=False)
    return [
        {"entry_id": int(i), **row, "matches": int(counts[i]), "prob": float(probs[i])}
        for i, row in zip(entry_ids, table.take(pa.array(entry_ids)).to_pylist(), strict=True)
    ]


def inspect_entry(run: str | Path, entry: str, lang: str) -> dict[str, Any]:
    """How often an entry matched, whether it is head or tail, and some texts that it matched (chosen by hash).

    lang: the list, a language of the run (or `merged`).  Returns {entry, lang, entry_id, source, matches, threshold,
    is_head, prob, rank, samples: [{key, text_idx, text}]}; rank 1 is the most frequent.  Raises UserError for an
    unknown list or entry.
    """
    run_dir = Path(run)
    artifacts.require_manifest(run_dir, "balance")
    lists = artifacts.read_json(run_dir / "balance" / "thresholds.json")["lists"]
    if lang not in lists:
        raise UserError(f"--lang {lang!r} is no list of this run; they are {', '.join(lists)}")
    table = artifacts.read_table(run_dir / "metadata" / f"{lang}.parquet", artifacts.METADATA, ["entry"])
    entry_id = pc.index(table.column("entry"), entry).as_py()
    if entry_id < 0:
        near = difflib.get_close_matches(entry, table.column("entry").slice(0, NEAR_AMONG).to_pylist(), n=3)
        meant = f"did you mean {', '.join(map(repr, near))}?" if near else "entries are matched as they are written"
        raise UserError(f"--entry {entry!r} is not in list {lang}; {meant}")
    counts = np.load(run_dir / "balance" / "counts" / f"{lang}.npy", mmap_mode="r", allow_pickle=False)
    row = _describe_entries(run_dir, lang, np.array([entry_id]))[0]
    threshold = lists[lang]["threshold"]
    return {
        "lang": lang,
        **row,
        "threshold": threshold,
        "is_head": threshold is not None and row["matches"] >= threshold,
        "rank": int(np.count_nonzero(counts > counts[entry_id])) + 1,
        "samples": _samples(run_dir, lang, entry_id),
    }


def _samples(run_dir: Path, list_name: str, entry_id: int) -> list[dict[str, Any]]:
    """Up to NUM_SAMPLES texts with the entry: chosen by hash."""
    columns = ["key", "text_idx", "text", "entries_lang", "entry_ids"]
    best: list[dict[str, Any]] = []
    for path in sorted((run_dir / "match" / "texts").rglob("*.parquet")):
        table = artifacts.read_table(path, artifacts.MATCH_TEXTS, columns)
        table = table.filter(pc.equal(table.column("entries_lang").cast(pa.string()), list_name))
        ids, offsets = list_buffers(table.column("entry_ids"))
        hits = np.flatnonzero(ids[offsets[0] : offsets[-1]] == entry_id) + offsets[0]
        rows = table.select(columns[:3]).take(pa.array(np.searchsorted(offsets, hits, side="right") - 1))
        best = coin.sample_records([*best, *rows.to_pylist()], NUM_SAMPLES)
    return best


def inspect_path(path: str | Path, num_rows: int = 5) -> dict[str, Any]:
    """What a file of a run holds: kind, format, size, schema and its first rows, without reading the whole of it.

    Parquet, .npy and .json; a folder with a manifest gives its manifest.  Raises UserError for anything else.
    """
    path = Path(path)
    if path.is_dir():
        manifest = artifacts.read_manifest(path)
        if manifest is None:
            raise UserError(
                f"{path} is a folder without {artifacts.MANIFEST}; give a file, or a finished stage's folder"
            )
        return {"path": str(path), "kind": "stage", "manifest": manifest}
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a file of a run, or a finished stage's folder")
    if path.suffix == ".parquet":
        return {"path": str(path), "kind": "parquet", **_describe_parquet(path, num_rows)}
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        shape = {"dtype": str(array.dtype), "shape": list(array.shape)}
        return {"path": str(path), "kind": "npy", **shape, "first": array[:num_rows].tolist()}
    if path.suffix == ".json":
        return {"path": str(path), "kind": "json", "record": artifacts.read_json(path)}
    raise UserError(f"{path} is of a kind that is not known here; give a .parquet, .npy or .json, or a stage's folder")


def _describe_parquet(path: Path, num_rows: int) -> dict[str, Any]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not readable as Parquet ({error}); write it again") from error
    with file:
        metadata = file.schema_arrow.metadata or {}
        first = next(file.iter_batches(batch_size=num_rows), None)
        return {
            "format": metadata.get(b"worldclip.format", b"").decode() or None,
            "version": metadata.get(b"worldclip.version", b"").decode() or None,
            "num_rows": file.metadata.num_rows,
            "columns": {field.name: str(field.type) for field in file.schema_arrow},
            "first": first.to_pylist() if first is not None else [],
        }


def key_to_text(found: dict[str, Any]) -> str:
    """What inspect_key found, for people."""
    lines = [f"{found['key']} in {found['shard']}: {'kept' if found['kept'] else 'not kept'}"]
    if not found["is_valid"]:
        lines += [f"  {why}" for why in found["not_valid_because"]]
    if "draw" in found:
        draw = found["draw"]
        lines.append(f"  text {draw['text_idx']} drawn among {draw['among']} (coin {draw['coin']:.4f})")
    for text in found["texts"]:
        over = f" (over the cap of {text['cap']:,} pairs)" if "cap" in text else ""
        lines.append(f"  text {text['text_idx']} {text['text']!r}: {text['reason']}{over}")
        if "lang_prob" in text:
            lang = f", language {text['lang']}" if "lang" in text else ""
            lines.append(f"    label {text['lid_label']} ({text['lang_prob']:.2f}){lang}")
        lines += [
            f"    {entry['entry']!r} ({entry['source']}): {entry['matches']:,} matches, {entry['prob']:.4f}"
            for entry in text.get("entries", ())
        ]
        if "keep_prob" in text:
            coin_text = f", coin {text['coin']:.4f}" if "coin" in text else ""
            lines.append(f"    probability {text['keep_prob']:.4f}{coin_text}")
    return "\n".join(lines)


def entry_to_text(found: dict[str, Any]) -> str:
    """What inspect_entry found, for people."""
    threshold = f"{found['threshold']:,}" if found["threshold"] is not None else "none (no match in this list)"
    return "\n".join(
        [
            f"{found['entry']!r} of {found['lang']} (entry {found['entry_id']}, {found['source']}): "
            f"{'head' if found['is_head'] else 'tail'}",
            f"  {found['matches']:,} matches, rank {found['rank']:,}, threshold {threshold}, keeps {found['prob']:.4f}",
            *(f"  {sample['key']} {sample['text_idx']}: {sample['text']}" for sample in found["samples"]),
        ]
    )
