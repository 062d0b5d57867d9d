"""Upload exported folders to the hub: plan what goes where, show it, then push."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError, require
from worldclip.core.preflight import problems_of
from worldclip.model.weights import PICKLES


@dataclass(frozen=True, slots=True)
class Upload:
    """One folder and its repository."""

    folder: Path
    repository: str
    files: tuple[tuple[str, int], ...]
    """Relative path and size in bytes of each file."""
    is_space: bool = False
    """Whether it is a page, which the hub serves as a static Space, and no model."""

    def lines(self) -> list[str]:
        """Return the upload as lines of text: a head, then one line per file."""
        total = sum(size for _, size in self.files)
        kind = "static Space " if self.is_space else ""
        head = f"{self.folder} -> {kind}{self.repository}: {len(self.files)} files, {total:,} bytes"
        return [head, *(f"  {size:>14,}  {name}" for name, size in self.files)]


def check_repository(name: str) -> None:
    """Raise UserError unless a name is owner/name."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"--push {name!r}: a repository of the hub is owner/name")


def plan(folders: Sequence[Path], repository: str) -> list[Upload]:
    """Return one upload per folder: the first to `repository`, others to `repository`-<their name>.

    Raises UserError for an invalid repository, a folder without a model card, and files that must not be published.
    """
    problems = problems_of(check_repository, repository)
    uploads = []
    for i, folder in enumerate(folders):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not (folder / "README.md").exists():
            problems.append(f"{folder} holds no model card (README.md); export it again")
        problems += [f"{path} is a pickle, which is never published" for path in files if path.suffix in PICKLES]
        sizes = tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)
        target = repository if i == 0 else f"{repository}-{folder.name}"
        uploads.append(Upload(folder, target, sizes, is_space=folder.name == "web"))
    if problems:
        raise UserError(problems)
    return uploads


def push(uploads: Sequence[Upload], hub: Any = None) -> list[str]:
    """Create missing repositories, upload, and return the addresses.

    hub: a huggingface_hub.HfApi, by default one with the token of `hf auth login`.
    """
    huggingface_hub = require("huggingface_hub", extra="train")
    hub = hub or huggingface_hub.HfApi()
    errors = (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.LocalTokenNotFoundError, OSError)
    addresses = []
    for upload in uploads:
        try:
            kind = {"repo_type": "space"} if upload.is_space else {}
            sdk = {"space_sdk": "static"} if upload.is_space else {}
            hub.create_repo(upload.repository, exist_ok=True, **kind, **sdk)
            address = hub.upload_folder(
                repo_id=upload.repository, folder_path=upload.folder, commit_message="Export of worldclip", **kind
            )
        except errors as error:
            raise UserError(
                f"{upload.folder} was not uploaded to {upload.repository} ({str(error).splitlines()[0]}); log in with "
                "`hf auth login`, and check that you may write to this repository"
            ) from error
        addresses.append(str(address))
    return addresses
