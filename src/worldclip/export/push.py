"""Exported folders to the hub: what would go where, and then, unless it is a dry run, there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError, require
from worldclip.model.weights import PICKLES


@dataclass(frozen=True, slots=True)
class Upload:
    """One folder and its repository."""

    folder: Path
    repository: str
    files: tuple[tuple[str, int], ...]
    """Relative path and bytes."""

    def lines(self) -> list[str]:
        total = sum(size for _, size in self.files)
        head = f"{self.folder} -> {self.repository}: {len(self.files)} files, {total:,} bytes"
        return [head, *(f"  {size:>14,}  {name}" for name, size in self.files)]


def plan(folders: Sequence[Path], repository: str) -> list[Upload]:
    """One upload a folder: the first to `repository`, others to `repository`-<their name>.

    Raises UserError for a name that is none, a folder without a card, and files that must not be published.
    """
    problems = []
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        problems.append(f"--push is {repository!r}; a repository of the hub is owner/name")
    found = []
    for i, folder in enumerate(folders):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not (folder / "README.md").exists():
            problems.append(f"{folder} holds no model card (README.md); export it again")
        problems += [f"{path} is a pickle; it is not published" for path in files if path.suffix in PICKLES]
        sizes = tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)
        found.append(Upload(folder, repository if i == 0 else f"{repository}-{folder.name}", sizes))
    if problems:
        raise UserError(problems)
    return found


def push(uploads: Sequence[Upload], hub: Any = None) -> list[str]:
    """Create the repositories where they are not there and upload; returns their addresses.

    hub: a huggingface_hub.HfApi, by default one with the token that `hf auth login` left.
    """
    library = require("huggingface_hub", extra="train")
    hub = hub or library.HfApi()
    addresses = []
    for upload in uploads:
        try:
            hub.create_repo(upload.repository, exist_ok=True)
            found = hub.upload_folder(
                repo_id=upload.repository, folder_path=upload.folder, commit_message="Export of worldclip"
            )
        except (library.errors.HfHubHTTPError, library.errors.LocalTokenNotFoundError, OSError) as error:
            raise UserError(
                f"{upload.folder} did not reach {upload.repository} ({str(error).splitlines()[0]}); log in with "
                "`hf auth login`, and see that the name is yours"
            ) from error
        addresses.append(str(found))
    return addresses
