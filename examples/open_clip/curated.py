"""Online curation in a WebDataset pipeline, open_clip's included: the pool's tars in, the epoch's kept pairs out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from worldclip.curate import Curator

Sample = dict[str, Any]
BATCH = 1024  # samples decided on at once: a call costs microseconds, a key in it about one
TEXT_FIELDS = ("texts", "text", "caption", "TEXT")  # the first that a record has


def key_of_member(sample: Sample) -> str:
    """Return a pair's identity for tars in the pool's own folder; of tars in a folder below it: <folder>/<this>."""
    return sample["__key__"].removeprefix("./")


def texts_of(sample: Sample) -> list[str]:
    """Return the stored texts as the pool reads them if pool.texts is not set: of .txt, or of a field of .json."""
    if "txt" in sample:
        return [sample["txt"].decode()]
    record = json.loads(sample["json"])
    texts = next(record[name] for name in TEXT_FIELDS if name in record)
    return texts if isinstance(texts, list) else [texts]


def curated(
    run: str | Path, epoch: Callable[[], int], key_of: Callable[[Sample], str] = key_of_member
) -> Callable[[Iterable[Sample]], Iterator[Sample]]:
    """A stage of a pipeline: undecoded samples -> those kept in this epoch, each with its drawn text as `txt`."""
    curator = Curator(run)

    def keep(samples: Iterable[Sample]) -> Iterator[Sample]:
        samples = iter(samples)
        while batch := list(itertools.islice(samples, BATCH)):
            for i, text_idx in zip(*curator.keep([key_of(sample) for sample in batch], epoch()), strict=True):
                yield {**batch[i], "txt": texts_of(batch[i])[text_idx].encode()}

    return keep
