"""Every path of a RUN folder, once: docs/design.md, "Contracts on disk".

A shard is named by its path relative to the pool, with its extension; its artifacts carry that name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

BEST = "best.json"
_STEP = re.compile(r"step_\d{9}")


def recipe(run_dir: Path) -> Path:
    """Return the recipe of a run, loadable as it is."""
    return run_dir / "recipe.toml"


def run_record(run_dir: Path) -> Path:
    """Return what made a run: versions and git revision."""
    return run_dir / "run.json"


def report_json(folder: Path) -> Path:
    """Return the report of RUN/<stage>, or of any job's folder, as JSON."""
    return folder / "report.json"


def report_html(folder: Path) -> Path:
    """Return the report of a run, of RUN/<stage>, or of any job's folder, as a page."""
    return folder / "report.html"


def estimates(run_dir: Path) -> Path:
    """Return what other thresholds would keep, as the report shows it."""
    return run_dir / "estimate.json"


def attribution(run_dir: Path) -> Path:
    """Return the sources and licences of a pool that the run built."""
    return run_dir / "pool" / "README.md"


def pool_index(run_dir: Path, shard: str) -> Path:
    """Return the file that says where the images of a shard are."""
    return run_dir / "pool" / "index" / f"{shard}.parquet"


def entries(run_dir: Path, list_name: str) -> Path:
    """Return the file of an entry list."""
    return run_dir / "metadata" / f"{list_name}.parquet"


def matcher(run_dir: Path, list_name: str, profile: str) -> Path:
    """Return the folder of the compiled matcher of an entry list under a profile."""
    return run_dir / "metadata" / f"{list_name}.matcher" / profile


def built_pairs(run_dir: Path) -> Path:
    """Return the folder of the pairs of a pool that the run builds."""
    return run_dir / "pool" / "pairs"


def emoji_names(run_dir: Path) -> Path:
    """Return the names of the emoji pool's drawings in its languages."""
    return run_dir / "pool" / "names.json"


def match_texts(run_dir: Path, shard: str) -> Path:
    """Return the file of a shard's matched texts."""
    return run_dir / "match" / "texts" / f"{shard}.parquet"


def match_counts(run_dir: Path, shard: str) -> Path:
    """Return the file of a shard's matches per entry."""
    return run_dir / "match" / "counts" / f"{shard}.parquet"


def matched_shards(run_dir: Path) -> list[str]:
    """Return the names of the shards with matched texts, sorted."""
    folder = run_dir / "match" / "texts"
    return sorted(path.relative_to(folder).as_posix().removesuffix(".parquet") for path in folder.rglob("*.parquet"))


def counted_shards(run_dir: Path) -> list[Path]:
    """Return the files of matches per entry, one per shard, sorted."""
    return sorted((run_dir / "match" / "counts").rglob("*.parquet"))


def match_accounting(run_dir: Path) -> Path:
    """Return what became of each text up to match, per reason and language, for curate."""
    return run_dir / "match" / "accounting.json"


def thresholds(run_dir: Path) -> Path:
    """Return the record of all thresholds."""
    return run_dir / "balance" / "thresholds.json"


def entry_probs(run_dir: Path, list_name: str) -> Path:
    """Return the file of an entry list's probabilities, float32."""
    return run_dir / "balance" / f"{list_name}.npy"


def entry_counts(run_dir: Path, list_name: str) -> Path:
    """Return the file of an entry list's matches over the whole pool, uint64."""
    return run_dir / "balance" / "counts" / f"{list_name}.npy"


def curated(run_dir: Path, shard: str) -> Path:
    """Return the file of a shard's kept pairs."""
    return run_dir / "curate" / f"{shard}.parquet"


def curated_keys(run_dir: Path) -> Path:
    """Return the kept keys as DataComp's sorted u8,u8."""
    return run_dir / "curate" / "keys.npy"


def curated_counts(run_dir: Path, shard: str) -> Path:
    """Return the file of a shard's matches per entry among its kept texts."""
    return run_dir / "curate" / "counts" / f"{shard}.parquet"


def curated_tars(run_dir: Path) -> Path:
    """Return the folder of the kept pairs as tars."""
    return run_dir / "curate" / "tars"


def data_card(run_dir: Path) -> Path:
    """Return the data card of the kept pairs, Markdown."""
    return run_dir / "curate" / "DATA_CARD.md"


def train_dir(run_dir: Path) -> Path:
    """Return the folder of training: checkpoints, tokenizer, logs."""
    return run_dir / "train"


def image_places(run_dir: Path, shard: str) -> Path:
    """Return the file that says where the images of a shard are in train.pool."""
    return train_dir(run_dir) / "join" / "places" / f"{shard}.parquet"


def tokenizer(run_dir: Path) -> Path:
    """Return the folder of the tokenizer that a run trains with."""
    return train_dir(run_dir) / "tokenizer"


def train_log(run_dir: Path) -> Path:
    """Return the log of training, one line per record."""
    return train_dir(run_dir) / "log.jsonl"


def results(run_dir: Path) -> Path:
    """Return the results of evaluation, one line per record."""
    return run_dir / "evaluate" / "results.jsonl"


def results_table(run_dir: Path) -> Path:
    """Return the results as Markdown."""
    return run_dir / "evaluate" / "table.md"


def step_folder(train_dir: Path, step: int) -> Path:
    """Return the folder of the checkpoint of this step."""
    return train_dir / f"step_{step:09}"


def checkpoints(train_dir: Path) -> list[Path]:
    """Return the checkpoints of RUN/train, oldest first."""
    if not train_dir.is_dir():
        return []
    return sorted(path for path in train_dir.iterdir() if _STEP.fullmatch(path.name))


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run, None if it has none."""
    folders = checkpoints(train_dir(run_dir))
    return folders[-1] if folders else None


def best_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint that evaluations during training found best; without any, the newest."""
    return best_of(train_dir(run_dir)) or latest_checkpoint(run_dir)


def best_of(train_dir: Path) -> Path | None:
    """Return the checkpoint that RUN/train/best.json names, None if it is not there."""
    record = train_dir / BEST
    if not record.exists():
        return None
    folder = step_folder(train_dir, json.loads(record.read_text(encoding="utf-8"))["step"])
    return folder if folder.exists() else None
