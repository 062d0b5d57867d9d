"""Every path of a RUN folder, once: docs/design.md, "Contracts on disk".

A shard is named by its path relative to the pool, with its extension; its artifacts carry that name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from worldclip.core.job_files import DONE as DONE
from worldclip.core.job_files import done_dir as done_dir
from worldclip.core.job_files import is_run as is_run
from worldclip.core.job_files import lock as lock
from worldclip.core.job_files import marker as marker
from worldclip.core.job_files import marker_in as marker_in
from worldclip.core.job_files import path_in
from worldclip.core.job_files import recipe as recipe
from worldclip.core.job_files import report_json as report_json
from worldclip.core.job_files import run_record as run_record
from worldclip.core.regular_file import read_regular

BEST = "best.json"
TRAINER = "trainer"  # folder of a checkpoint: what training needs to resume, and nobody else
_STEP = re.compile(r"step_\d{9}")


def _path_of(relative: str) -> Callable[[Path, str], Path]:
    """Return the function of a path in RUN per shard or entry list, whose name replaces `{}`."""
    return lambda run_dir, name: run_dir / relative.format(name)


run_log = path_in("log.txt")  # what the commands on the run said, with the time; appended to
branched = path_in("branch.json")  # the training precision of the run that --from-run names
report_html = path_in("report.html")  # report of RUN, or of any job's folder

attribution = path_in("pool/README.md")  # sources and licences of a pool that the run built
built_pool = path_in("pool/train")  # folder of the tars of a pool that the run builds
held_out = path_in("pool/held_out.json")  # the held-out sets of a pool that the run builds
pool_shards = path_in("pool/shards.parquet")  # name, path and fingerprint of each file of the pool
pool_listed_at = path_in("pool/listed_at.json")  # when they were listed, and written, in ns
pool_pictures = path_in("pool/pictures.json")  # {shard: digest} of pictures in files of their own, where there are any
all_pool_pairs = path_in("pool/pairs")  # folder of them
pool_pairs = _path_of("pool/pairs/{}.parquet")  # texts of a shard, with the reasons of those that are dropped
all_pool_images = path_in("pool/images")  # folder of them
pool_images = _path_of("pool/images/{}.parquet")  # places of a shard's images
sorted_lists = path_in("pool/keys")  # folder of the lists of keys, sorted, by the digest of the list

entries = _path_of("metadata/{}.parquet")  # an entry list

matched_texts = path_in("match/texts")  # folder of all of them
match_texts = _path_of("match/texts/{}.parquet")  # matched texts of a shard
all_match_counts = path_in("match/counts")  # folder of them
match_counts = _path_of("match/counts/{}.parquet")  # matches per entry of a shard
all_match_dropped = path_in("match/dropped")  # folder of them
match_dropped = _path_of("match/dropped/{}.parquet")  # texts of a shard without a match, with the reasons

thresholds = path_in("balance/thresholds.json")  # thresholds of all entry lists
entry_probs = _path_of("balance/{}.npy")  # probabilities of a list's entries, float32
entry_counts = _path_of("balance/counts/{}.npy")  # matches of a list's entries over the whole pool, uint64

curated = _path_of("curate/{}.parquet")  # kept pairs of a shard
all_dropped = path_in("curate/dropped")  # folder of them
dropped = _path_of("curate/dropped/{}.parquet")  # all other pairs of a shard, with the reasons
all_curated_counts = path_in("curate/.work/counts")  # folder of them
curated_counts = _path_of("curate/.work/counts/{}.parquet")  # matches per entry among the kept texts of a shard
curate_work = path_in("curate/.work")  # markers, counts, caps: hidden from tools that read all files of the lists
kept_keys = path_in("curate/keys.npy")  # the kept keys, DataComp's sorted u8,u8; none where a key is no 128-bit hex
curate_readme = path_in("curate/README.md")  # tells `datasets` which files are the list
entry_sums = path_in("curate/.work/sums")  # matches per entry of the kept texts over all shards
exported = path_in("export")  # folder of one folder per format
curated_tables = path_in("curate/parquet")  # folder of the kept rows of a pool of tables, with all their columns
curated_tars = path_in("curate/tars")  # folder of the kept pairs as tars
tables_readme = path_in("curate/parquet/README.md")  # the same for the tables
tars_readme = path_in("curate/tars/README.md")
published = path_in("publish")  # folder that `worldclip publish` uploads
data_card = path_in("curate/DATA_CARD.md")  # card of the kept pairs

train_dir = path_in("train")  # checkpoints, tokenizer, logs
join_dir = path_in("train/join")  # places of train.pool's images, by key
image_places = _path_of("train/join/places/{}.parquet")  # places of a shard's images in train.pool
tokenizer = path_in("train/tokenizer")  # folder of the tokenizer that the run trains with
train_log = path_in("train/log.jsonl")  # one line per record

results = path_in("evaluate/results.jsonl")  # one line per record
results_table = path_in("evaluate/table.md")

stage_dir = _path_of("{}")  # folder of a stage
stage_report = _path_of("{}/report.json")

# Paths in a folder of checkpoints.
log_file = path_in("log.jsonl")  # one line per record
tensorboard_dir = path_in("tensorboard")

# Paths in a checkpoint.
trainer_dir = path_in(TRAINER)
trainer_state = path_in(f"{TRAINER}/state.json")  # how far training was


def run_of(path: Path, stage: str) -> Path:
    """Return the run whose folder of a stage is given; any other path unchanged."""
    return path.parent if path.name == stage and recipe(path.parent).is_file() else path


def matcher(run_dir: Path, list_name: str, profile: str) -> Path:
    """Return the folder of the compiled matcher of an entry list under a profile."""
    return stage_dir(run_dir, "metadata") / f"{list_name}.matcher" / profile


def matched_shards(run_dir: Path) -> list[str]:
    """Return the names of the shards with matched texts, sorted."""
    return _shards_in(matched_texts(run_dir))


def counted_shards(run_dir: Path) -> list[str]:
    """Return the names of the shards with matches per entry, sorted."""
    return _shards_in(all_match_counts(run_dir))


def _shards_in(folder: Path) -> list[str]:
    """Return the names of shards whose Parquet files are in a folder, sorted."""
    names = []
    start = len(f"{folder}/")
    for place, _, files in os.walk(folder):
        prefix = f"{place}/"[start:]
        names += [f"{prefix}{file.removesuffix('.parquet')}" for file in files if file.endswith(".parquet")]
    return sorted(names)


def step_folder(train_dir: Path, step: int) -> Path:
    """Return the folder of the checkpoint of this step."""
    return train_dir / f"step_{step:09}"


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step_"))


def step_scores(checkpoint: Path) -> Path:
    """Return the file that says that a checkpoint's evaluation during training has ended, with its scores."""
    return checkpoint.parent / "evaluate" / checkpoint.name / "scores.json"


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
    folder = step_folder(train_dir, json.loads(read_regular(record))["step"])
    return folder if folder.exists() else None
