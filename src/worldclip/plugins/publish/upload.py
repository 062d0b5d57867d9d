"""Upload a folder as a dataset of the hub: its files are shown first, and those of earlier uploads are deleted."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError, require
from worldclip.core.hub_errors import explain
from worldclip.core.redact import redact

TAG = "worldclip"  # tag of every card that worldclip publishes
OWN_FILES = ("data/*", "keys.npy", "pairs.parquet")  # patterns of earlier uploads; `*` matches a slash, too
NUM_NAMED = 3  # files that a message names
KIND = "dataset"


@dataclass(frozen=True, slots=True)
class Upload:
    """One folder and its dataset."""

    folder: Path
    repository: str
    files: tuple[tuple[str, int], ...]
    """Relative path and size in bytes of each file."""

    def lines(self) -> list[str]:
        """Return the upload as lines of text: a head, then one line per file."""
        total = sum(size for _, size in self.files)
        head = f"{self.folder} -> dataset {self.repository}: {len(self.files)} files, {total:,} bytes"
        return [head, *(f"  {size:>14,}  {name}" for name, size in self.files)]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An upload that is done."""

    upload: Upload
    address: str
    """The address of the dataset, or of the pull request."""
    removed: tuple[str, ...]
    """Files of earlier uploads that the folder no longer holds."""
    has_history: bool
    """Whether the dataset held files of earlier uploads."""

    def lines(self) -> list[str]:
        """Return the address, what was removed, and how to remove it from the history, too."""
        lines = [self.address]
        name = self.upload.repository
        if self.removed:
            lines.append(f"{name}: removed what {self.upload.folder} no longer holds: {_named(self.removed)}")
        if self.has_history:
            lines += [
                f"{name}: its history still holds the files of earlier uploads. To rewrite the history:",
                '  python -c "from huggingface_hub import HfApi; '
                f"HfApi().super_squash_history('{name}', repo_type='{KIND}')\"",
            ]
        return lines


def _named(files: Sequence[str]) -> str:
    names = ", ".join(files[:NUM_NAMED])
    return names if len(files) <= NUM_NAMED else f"{names} and {len(files) - NUM_NAMED} more"


def list_files(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return relative path and size in bytes of each file of a folder, sorted."""
    files = sorted(filter(Path.is_file, folder.rglob("*")))
    return tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)


def upload_to_hub(
    upload: Upload, hub: Any = None, *, is_private: bool = False, as_pull_request: bool = False
) -> Uploaded:
    """Create a missing dataset, upload, and delete what earlier uploads left there and the folder does not hold.

    hub: a huggingface_hub.HfApi, by default one with the token of `hf auth login`.  is_private: create the dataset as
    private, and refuse one that is public.  as_pull_request: propose the upload to a dataset that exists.

    Raises UserError where a file to delete is in a dataset that worldclip did not publish.
    """
    huggingface_hub = require("huggingface_hub", extra="hub")
    of_hub = require("huggingface_hub.errors", extra="hub")  # a module that huggingface_hub imports only on demand
    # The bases are those of the library that the hub's client speaks HTTP with: no network is one of its errors
    errors = (of_hub.LocalTokenNotFoundError, *of_hub.HfHubHTTPError.__bases__, OSError, ValueError)
    try:
        hub = hub or huggingface_hub.HfApi()
        repository = upload.repository
        is_new = not as_pull_request and not hub.repo_exists(repository, repo_type=KIND)
        if not as_pull_request:
            private = {"private": True} if is_private else {}
            hub.create_repo(repository, exist_ok=True, repo_type=KIND, **private)
        info = hub.repo_info(repository, repo_type=KIND)
        if is_private and not info.private:
            raise UserError(f"--private: {repository} exists and is public; choose another name")
        names = {name for name, _ in upload.files}
        held = [] if is_new else hub.list_repo_files(repository, repo_type=KIND)
        older: set[str] = set()
        for pattern in OWN_FILES:
            older.update(fnmatch.filter(held, pattern))
        removed = tuple(sorted(older - names))
        if removed and TAG not in (info.tags or ()):
            raise UserError(
                f"{repository} holds files that worldclip did not publish and the upload would delete: "
                f"{_named(removed)}; choose another name, delete them, or give its card the tag {TAG}"
            )
        address = hub.upload_folder(
            repo_id=repository,
            repo_type=KIND,
            folder_path=upload.folder,
            commit_message="Export of worldclip",
            delete_patterns=list(OWN_FILES),
            **({"create_pr": True} if as_pull_request else {}),
        )
        return Uploaded(upload, str(getattr(address, "pr_url", None) or address), removed, has_history=bool(older))
    except UserError:
        raise
    except errors as error:
        raise UserError(
            f"{upload.folder} was not uploaded to {upload.repository}: {redact(explain(error))}; check that you may"
            " write to this repository, and the network"
        ) from error
