"""A RUN folder with the report.json of every stage, filled with made-up numbers of a plausible size."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from made_up_world import made_up_world
from worldclip.balance.config import BalanceConfig
from worldclip.balance.stage import head_tail_curve
from worldclip.balance.thresholds import thresholds_record
from worldclip.core.artifacts import write_json, write_manifest, write_text
from worldclip.curate.stage import sampled_curve
from worldclip.match.config import EntryLists

LANGS = ["en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar"]
NAMES = {
    "en": ["red apple", "waving hand", "flag: Benin", "kiwi fruit", "person walking"],
    "ja": ["リンゴ", "手を振る", "旗: ベナン", "キウイ", "歩く人"],
    "ko": ["빨간 사과", "흔드는 손", "깃발: 베냉", "키위", "걷는 사람"],
    "fa": ["سیب قرمز", "تکان دادن دست", "پرچم: بنین", "کیوی", "عابر پیاده"],
    "zh": ["红苹果", "挥手", "旗: 贝宁", "猕猴桃", "行人"],
    "ru": ["красное яблоко", "машущая рука", "флаг: Бенин", "киви", "идущий человек"],
}


def write_made_up_run(run_dir: Path, image: bytes = b"\x89PNG made up") -> Path:
    """Write the reports of all stages into `run_dir` and return it."""
    random = np.random.default_rng(0)
    uri = "data:image/png;base64," + base64.b64encode(image).decode()
    reports: dict[str, Any] = {
        "metadata": _metadata(random),
        "match": _match(random),
        "balance": _balance(random),
        "evaluate": made_up_world(uri, 6, {"emoji_tone": (250, 1.5), "emoji_base": (1869, 1.0)}, LANGS),
    }
    reports["curate"] = _curate(random)
    reports["train"] = {
        "samples_seen": 169_984, "steps": 664, "epochs": 7.5, "pairs": 22_664, "no_image": 3, "skipped_steps": 0,
        "bad": {"undecodable_image": 2}, "elapsed_s": 220.0, "samples_per_s": 772.7
    }  # fmt: skip
    for stage, report in reports.items():
        write_json(run_dir / stage / "report.json", report)
        manifest = {"format_version": 1, "digest": "made up", "config": {}, "inputs": {}}
        write_json(run_dir / stage / "manifest.json", manifest)
    write_text(run_dir / "train" / "log.jsonl", "".join(f"{json.dumps(row)}\n" for row in _log(random)))
    write_json(run_dir / "run.json", {"versions": {"worldclip": "0.1.0"}, "git_revision": "0123456789abcdef"})
    return run_dir


def write_manifests(run_dir: Path) -> None:
    """Write the manifests of balance to evaluate, each of the one above it."""
    above: dict[str, str] = {}
    for stage in ("balance", "curate", "train", "evaluate"):
        manifest = write_manifest(run_dir / stage, config={}, inputs=above, counts={})
        above = {stage: manifest["digest"]}


def _metadata(random: np.random.Generator) -> dict[str, Any]:
    rows = {}
    for lang in LANGS:
        sources = {"number": 100, "wordfreq": int(random.integers(90_000, 190_000))}
        rows[lang] = {"entries": sum(sources.values()), "by_source": sources, "dead": {"unicode": 12}}
    return {"lists": rows, "notes": ["wordfreq's words are lower-cased: each is given as it is and in title case"]}


def _match(random: np.random.Generator) -> dict[str, Any]:
    texts = {lang: {"no_match": 300, "matched": int(random.integers(2_000, 3_400))} for lang in LANGS}
    texts["und"] = {"bad_pair": 3, "no_language": 20}
    return {"pairs": 51_716, "num_matched_texts": 48_000, "bad": [], "texts": texts}


def _curate(random: np.random.Generator) -> dict[str, Any]:
    rows: dict[str, dict[str, float]] = {"und": {"bad_pair": 3, "no_text": 2, "pairs_out": 0, "expected_pairs": 0.0}}
    for lang in LANGS:
        kept = int(random.integers(900, 2600))
        rows[lang] = {"no_match": int(random.integers(10, 300)), "sampled_out": int(random.integers(800, 2000)),
                      "pairs_out": kept, "expected_pairs": kept + 3.4}  # fmt: skip
    for row in rows.values():
        row["pairs_in"] = sum(value for name, value in row.items() if name != "expected_pairs")
    before = random.zipf(1.35, 3000).clip(0, 3000).astype(np.uint64)
    effect = {lang: sampled_curve(before, np.minimum(before, np.uint64(20))) for lang in LANGS}
    return {"text_policy": "all", "languages": rows, "effect": effect, "samples": _samples()}


def _samples() -> dict[str, list[dict[str, Any]]]:
    samples = {}
    for reason in ("pairs_out", "sampled_out", "excluded"):
        entries = [{"entry": "سیب قرمز", "matches": 3000, "prob": 0.25}]
        samples[reason] = [
            {"key": f"{reason}/{n}", "text_idx": 0, "text": f"سیب قرمز {n}", "lang": "fa", "keep_prob": 0.25,
             "coin": 0.5, "entries": entries}
            for n in range(2)
        ]  # fmt: skip
    for reason in ("no_match", "no_language"):
        samples[reason] = [{"key": reason, "text_idx": 0, "text": "?", "lang": "und", "label": "xx", "lang_prob": 0.3}]
    return samples


def _balance(random: np.random.Generator) -> dict[str, Any]:
    counts = {lang: random.zipf(1.35, 3000).clip(0, 3000).astype(np.uint64) for lang in LANGS}
    thresholds: dict[str, int | None] = {lang: int(random.integers(3, 40)) for lang in LANGS}
    top = {
        lang: [
            {"entry": name, "source": "wordfreq", "matches": 3000 - 400 * i, "prob": 0.01 * (i + 1)}
            for i, name in enumerate(NAMES.get(lang, NAMES["en"]))
        ]
        for lang in LANGS
    }
    curves = {lang: head_tail_curve(counts[lang], thresholds[lang]) for lang in LANGS}
    table = thresholds_record(counts, thresholds, BalanceConfig(tail_fraction=0.1), EntryLists("language"))
    return {**table, "warnings": ["made up <numbers>"], "curves": curves, "top_entries": top}


def _log(random: np.random.Generator) -> list[dict[str, float]]:
    steps = np.arange(1, 665)
    loss = 5.5 * np.exp(-steps / 250) + 1.5 + random.normal(0, 0.08, len(steps))
    lrs = 2e-3 * np.minimum(1.0, steps / 40)
    return [
        {"step": int(s), "samples_seen": int(s) * 256, "loss": float(v), "lr": float(lr), "logit_scale": 20.0}
        for s, v, lr in zip(steps, loss, lrs, strict=True)
    ]
