"""What decides a training: the keys of its recipe, and digests of the pairs and models that it starts from."""

from __future__ import annotations

from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.layout import checkpoints
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.inputs import is_remote
from worldclip.core.job import Report, Run
from worldclip.curate import require_current
from worldclip.model.load import find
from worldclip.pool.config import PoolConfig
from worldclip.train.config import TrainConfig
from worldclip.train.launch import num_ranks
from worldclip.train.pool_join import image_shards

REMOTE_STREAMS = 64  # smallest default number of streams of an object store
STREAMS_PER_RANK = 6  # ... with many ranks


def decided_by(run: Run) -> Report:
    return {"train": run.deciding("train")["train"] | {"num_streams": streams_of(run)}}


def streams_of(run: Run) -> int:
    """Return the number of streams that the images are read in; 0: windows.

    The default depends on the number of ranks at the first start: streams decide the order of pairs.
    """
    config = run.section(TrainConfig)
    if config.num_streams is not None:
        return config.num_streams
    images = config.pool.as_pool() or run.section(PoolConfig)
    if not any(map(is_remote, images.paths)):
        return 0
    path = layout.train_dir(run.dir) / "config.json"
    if path.exists() and "train" not in run.restarted:
        recorded: int = artifacts.read_json(path)["config"]["train"]["num_streams"]
        return recorded
    return max(REMOTE_STREAMS, STREAMS_PER_RANK * num_ranks())


def inputs_of(run: Run) -> Report:
    """Return digests of the pool, the kept pairs and all that training starts from, and of train.pool's tars."""
    config = run.section(TrainConfig)
    digest = require_current(run)
    inputs: Report = {
        "pool": artifacts.require_manifest(run.dir, "pool")["digest"],
        "curate": artifacts.require_manifest(run.dir, "curate").get("list", digest),
        **_digests_of_starts(config, run.dir),
    }
    images = image_shards(config)
    if images is not None:
        inputs["images"] = {tar.name: tar.fingerprint for tar in images}
    return inputs


def _digests_of_starts(config: TrainConfig, run_dir: Path) -> dict[str, str]:
    """Return the digest of the initial weights, the teacher and the tokenizer's folder, by key of the recipe.

    What is gone has the digest that RUN/train/config.json records: the checkpoints hold what came of it.
    """
    path = layout.train_dir(run_dir) / "config.json"
    recorded: Report = {}
    if path.exists() and checkpoints(layout.train_dir(run_dir)):
        recorded = artifacts.read_json(path)["inputs"]
    digests = {}
    for key, source in (
        ("train.initial_weights", config.initial_weights),
        ("train.distill.teacher", config.distill.teacher),
    ):
        if source is not None:
            try:
                digests[key] = find(source).digest()
            except UserError:
                if key not in recorded:
                    raise
                digests[key] = recorded[key]
    key = "train.tokenizer.path"
    folder = config.tokenizer.path
    if folder is not None and Path(folder).is_dir():
        digests[key] = digest_of_files(Path(folder))
    elif key in recorded:
        digests[key] = recorded[key]
    return digests


def digest_of_files(folder: Path) -> str:
    """Return the digest of the files of a tokenizer's folder."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return artifacts.digest([artifacts.fingerprint(file, folder) for file in files])
