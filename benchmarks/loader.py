"""Images a second that come out of the loader, against open_clip_train's own webdataset loader, one worker each.

    python benchmarks/loader.py TAR [--seconds 20] [--write]      --write renews benchmarks/results/loader.md

TAR: a WebDataset of photographs (`.jpg`, `.json` with `name`). A text is put beside each image, as both loaders need
one; both tokenise it with the same tokenizer, crop to 224 px by RandomResizedCrop(0.9 to 1, bicubic) and make batches.
Ours gives uint8, which the device normalises: that step is timed with it here. Freed memory is kept for both, as
training on a CPU has it. The loaders take turns.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from head import make_head

BATCH, SIZE, COPIES = 64, 224, 4
RESULTS = Path(__file__).parent / "results" / "loader.md"


def copy_pool(source: Path, folder: Path) -> int:
    """COPIES tars of the same images with a `.txt` each; returns how many images one holds."""
    with tarfile.open(source) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    stems = sorted({Path(name).stem for name in members})
    for number in range(COPIES):
        with tarfile.open(folder / f"{number:06}.tar", "w") as tar:
            for stem in stems:
                name = json.loads(members[f"{stem}.json"])["name"]
                for suffix, content in (("jpg", members[f"{stem}.jpg"]), ("txt", f"a photo of a {name}".encode())):
                    info = tarfile.TarInfo(f"{number}-{stem}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return len(stems)


def make_tokenizer() -> Any:
    from worldclip.model.tokenizer import train_tokenizer

    texts = [f"a photo of a {first}{last}" for first in ("cat", "dog", "sea", "tree") for last in "abcdefghijklmnop"]
    return train_tokenizer(texts, vocab_size=60, context_length=77)


def our_batches(folder: Path, run_dir: Path, tokenizer: Any, scaled: bool) -> Iterator[int]:
    """Sizes of batches as they come, normalised as the model reads them, for ever."""
    from worldclip import pool
    from worldclip.config import load_recipe
    from worldclip.contracts import schemas
    from worldclip.core import artifacts
    from worldclip.core.execute import LocalExecutor
    from worldclip.model.clip import normalise_pixels, pixel_statistics
    from worldclip.model.config import ModelConfig
    from worldclip.recipe import run_stages
    from worldclip.train.config import TrainConfig
    from worldclip.train.loader import Loader

    recipe = load_recipe({"pool": {"path": str(folder)}, "balance": {"tail_fraction": 0.1}})
    context = run_stages(recipe, run_dir, ["pool"], executor=LocalExecutor(quiet=True))
    if not (run_dir / "curate").exists():
        for shard in pool.indexed_shards(context):
            pairs = pool.read_pairs(run_dir, shard.name, pool.EVERY_KEY)
            count = len(pairs.key)
            columns = {"key": pairs.key, "text_idx": pairs.text_idx, "text": pairs.text}
            columns |= {"lang": ["en"] * count, "keep_prob": np.ones(count)}
            artifacts.write_table(run_dir / "curate" / f"{shard.name}.parquet", _table(columns), schemas.CURATED)
    loader = Loader(
        run_dir,
        pool.indexed_shards(context),
        tokenizer,
        TrainConfig(model=ModelConfig(image_size=SIZE), decode_threads=1, scaled_decode=scaled),
        global_batch_size=BATCH,
    )
    for batch in loader.batches(0, 1 << 30):
        yield len(normalise_pixels(batch.images, *pixel_statistics(batch.images.device)))


def _table(columns: dict[str, Any]) -> Any:
    import pyarrow as pa

    return pa.table(columns)


def open_clip_batches(folder: Path, tokenizer: Any, num_samples: int) -> Iterator[int]:
    """The same of open_clip_train's loader, in its one worker process."""
    from open_clip.transform import image_transform
    from open_clip_train.data import get_wds_dataset

    def tokenize(text: str) -> Any:
        import torch

        tokens = tokenizer.encode([text])
        padded = torch.full((1, tokenizer.context_length), tokenizer.pad_id)
        padded[0, : tokens.lengths[0]] = torch.from_numpy(tokens.ids)
        return padded

    arguments = SimpleNamespace(
        train_data=str(folder / f"{{000000..{COPIES - 1:06}}}.tar"),
        train_num_samples=num_samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=BATCH,
        workers=1,
        world_size=1,
    )
    preprocess = image_transform(SIZE, is_train=True)
    data = get_wds_dataset(arguments, preprocess, is_train=True, tokenizer=tokenize)
    epoch = 0
    while True:
        data.set_epoch(epoch)
        for images, _ in data.dataloader:
            yield len(images)
        epoch += 1


def process_tree_cpu_s() -> float:
    """CPU time of this process and of its living children."""
    ticks = 0
    own = os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(stat.parent.name) == own or int(fields[1]) == own:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rate(batches: Iterator[int], cpu_s: float) -> tuple[float, float]:
    """(images a second of CPU time, of wall time) over about cpu_s seconds of CPU time."""
    started_at, cpu, images = time.perf_counter(), process_tree_cpu_s(), 0
    while process_tree_cpu_s() - cpu < cpu_s:
        images += next(batches)
    return images / (process_tree_cpu_s() - cpu), images / (time.perf_counter() - started_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tar", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    import torch

    from worldclip.train.device import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()  # as training on a CPU does; the peer's worker is forked and has it too
    with tempfile.TemporaryDirectory() as temporary:
        folder, run_dir = Path(temporary) / "tars", Path(temporary) / "run"
        folder.mkdir()
        count = copy_pool(arguments.tar, folder)
        tokenizer = make_tokenizer()
        makers: dict[str, Callable[[], Iterator[int]]] = {
            "open_clip_train": lambda: open_clip_batches(folder, tokenizer, COPIES * count),
            "ours": lambda: our_batches(folder, run_dir, tokenizer, scaled=False),
            "ours, scaled_decode": lambda: our_batches(folder, run_dir, tokenizer, scaled=True),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
        for _ in range(arguments.rounds):
            for name, make in makers.items():
                batches = make()
                for _ in range(3):  # processes, threads and caches have started
                    next(batches)
                found[name].append(rate(batches, arguments.seconds / arguments.rounds))
                batches.close()  # type: ignore[attr-defined]
                print(name, found[name][-1], flush=True)
    report(found, arguments.write, count)


def report(found: dict[str, list[tuple[float, float]]], write: bool, count: int) -> None:
    medians = {
        name: [statistics.median(values) for values in zip(*rates, strict=True)] for name, rates in found.items()
    }
    peer = medians["open_clip_train"]
    rows = [
        f"| {name} | {cpu:,.0f} | {cpu / peer[0]:.2f} | {wall:,.0f} | {wall / peer[1]:.2f} |"
        for name, (cpu, wall) in medians.items()
    ]
    print("\n".join(rows))
    if write:
        paths = [f"src/worldclip/{file}.py" for file in ("train/loader", "train/augment", "model/decode")]
        head = [
            "# Images a second out of the loader",
            "",
            make_head(paths, ("torch", "torchvision", "open_clip_torch", "webdataset", "simplejpeg", "pillow")),
            "",
            f"{count} photographs, {COPIES} times, crops of {SIZE} px, batches of {BATCH}, "
            "one worker, freed memory kept; medians, the loaders taking turns.",
            "",
            "| loader | images / s of CPU time | ratio | images / s of wall time | ratio |",
            "|---|---|---|---|---|",
        ]
        RESULTS.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
