"""Where the pairs are and how to read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from worldclip.core.settings import Decides


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """A pool of image-text pairs: WebDataset tars, Parquet or JSONL, or one that the run builds first."""

    path: Annotated[str | None, Decides()] = None
    """Folder or URL (s3://, gs://, https://, ...) of the pool, or one file; every .tar below it is a shard."""
    build: Literal["emoji"] | None = None
    """Pool that the run draws itself into RUN/pool: `emoji`, 3,944 drawings with names in 14 languages."""
    roots: Annotated[dict[str, str], Decides()] = field(default_factory=dict)
    """Several folders instead of one path, each under a name that begins the identity of its pairs."""
    format: Annotated[Literal["auto", "tar", "parquet", "jsonl"], Decides("pool", "match")] = "auto"
    """What a shard is; auto: tars where there are any, else Parquet, else JSONL (.jsonl, .jsonl.gz)."""
    key: Annotated[str, Decides("pool", "match")] = "member"
    """Where a pair's identity is: `member` (folder of the tar and stem of the member), `json:FIELD` of a tar's .json,
    or a column of a table."""
    texts: Annotated[tuple[str, ...], Decides("match")] = ()
    """Where a pair's texts are, all of them in this order: `txt` or `json:FIELD` in tars, columns of a table; each a
    text or a list of texts.  Unset: the first that there is of txt, texts, text, caption, TEXT."""
    lang: Annotated[str | None, Decides("match")] = None
    """Where the pool says a text's language: `json:FIELD` or a column, one label for all texts of a pair or a list with
    one for each; by our code, Wikipedia's or a LID label.  Unset: language identification finds it."""
    image_px: int = 64
    """Side of a drawing of a built pool, in pixels."""
    samples_per_shard: int = 500
    """Samples in a tar of a built pool."""
    valid_keys: Annotated[str | None, Decides("match", "curate")] = None
    """File of the only keys that count and are curated: keys.npy or Parquet with a `key` column; unset: all keys."""
    deny_keys: Annotated[tuple[str, ...], Decides("match", "curate")] = ()
    """Files of keys that neither count nor are curated, in the same formats."""

    def problems(self) -> list[str]:
        found = []
        given = [name for name, is_set in (("path", self.path), ("build", self.build), ("roots", self.roots)) if is_set]
        if len(given) != 1:
            said = f"pool.{' and pool.'.join(given)} are" if given else "none is"
            found.append(f"pool: {said} set; set exactly one of pool.path, pool.roots (folders of tars) or pool.build")
        if not self.key.removeprefix("json:"):
            found.append(
                f'pool.key is {self.key!r}; it says where a pair\'s identity is: "member", "json:FIELD" or a column'
            )
        if self.lang is not None and not self.lang.removeprefix("json:"):
            found.append(f'pool.lang is {self.lang!r}; it says where the languages are: "json:FIELD" or a column')
        found += [
            f"{setting} holds a password, which a run would record; give it to fsspec by its environment or config file"
            for setting, path in {"pool.path": self.path or "", **self.roots}.items()
            if "://" in path and urlsplit(path).password
        ]
        found += [
            f"pool.roots has the name {name!r}; it begins the identity of that root's pairs: not empty, without /"
            for name in self.roots
            if not name or "/" in name
        ]
        if self.image_px < 8:
            found.append(f"pool.image_px is {self.image_px}; it is the side of a drawing in pixels, at least 8")
        if self.samples_per_shard < 1:
            found.append(f"pool.samples_per_shard is {self.samples_per_shard}; a tar holds at least 1 sample")
        return found
