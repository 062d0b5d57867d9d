"""Where the pairs are and how to read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from worldclip.core.settings import Config, Decides, Place, Problems


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig(Config):
    """A pool of image-text pairs: WebDataset tars, Parquet or JSONL, or one that the run builds first."""

    path: Annotated[str | None, Decides(), Place()] = None
    """Folder or URL (s3://, gs://, https://, ...) of the pool, or a single file; every .tar in it is a shard."""
    build: Literal["emoji"] | None = None
    """Build the pool in RUN/pool instead: `emoji`, 3,944 drawings with names in 14 languages."""
    roots: Annotated[dict[str, str], Decides(), Place()] = field(default_factory=dict)
    """Several folders instead of one path, as name = folder.  The name is the first part of its pairs' keys."""
    format: Annotated[Literal["auto", "tar", "parquet", "jsonl"], Decides("pool", "match")] = "auto"
    """Format of the shards; auto: tars if there are any, else Parquet, else JSONL (.jsonl, .jsonl.gz)."""
    key: Annotated[str, Decides("pool", "match")] = "member"
    """Where the key of a pair is: `member` (folder of the tar and stem of the member), `json:FIELD` of a tar's .json,
    or a column."""
    texts: Annotated[tuple[str, ...], Decides("match")] = ()
    """Where the texts of a pair are, in this order: `txt` or `json:FIELD` in tars, or columns; each holds a text or a
    list of texts.  Default: the first that exists of txt, texts, text, caption, TEXT."""
    lang: Annotated[str | None, Decides("match")] = None
    """Where the pool states the language of a text: `json:FIELD` or a column, with one label for all texts of a pair or
    a list with one per text (our code, Wikipedia's, or a LID label).  Unset: identify the language."""
    valid_keys: Annotated[str | None, Decides("match", "curate"), Place()] = None
    """File of the only keys to count and curate: keys.npy, or Parquet with a column `key`.  Unset: all keys."""
    deny_keys: Annotated[tuple[str, ...], Decides("match", "curate"), Place()] = ()
    """Files of keys to leave out of counts and curation, in the same formats."""

    def own_problems(self) -> Problems:
        """Yield a pool that is not defined exactly once, and malformed places."""
        sources = {"path": self.path, "roots": self.roots, "build": self.build}
        keys = [key for key, value in sources.items() if value]
        if len(keys) != 1:
            yield "", f"set exactly one of path, roots and build; now set: {', '.join(keys) or 'none'}"
        if not self.key.removeprefix("json:"):
            yield "key", 'must be "member", "json:FIELD" or the name of a column'
        if self.lang is not None and not self.lang.removeprefix("json:"):
            yield "lang", 'must be "json:FIELD" or the name of a column'
        for name in self.roots:
            if not name or "/" in name:
                yield "roots", f'the name "{name}" begins keys; it must not be empty or contain /'
