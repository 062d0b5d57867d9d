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


def key_of_member(sample: Sample) -> str:
    """A pair's identity for tars in the pool's own folder; with tars in folders below it: <folder>/<stem>."""
    return Path(sample["__key__"]).name


def texts_of(sample: Sample) -> list[str]:
    """The stored texts, as the pool's recipe reads them: .txt, else `texts` in .json."""
    return [sample["txt"].decode()] if "txt" in sample else json.loads(sample["json"])["texts"]


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
