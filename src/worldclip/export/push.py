"""Upload folders to the hub: plan what goes where, show it, then push."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldclip.core.errors import UserError, require
from worldclip.core.hub_errors import explain
from worldclip.core.preflight import problems_of
from worldclip.core.redact import redact
from worldclip.model.weights import PICKLES

Kind = Literal["model", "dataset", "space"]
VECTORS = ("pictures.bin", "names.bin")  # of a page, as export/web_folder.py writes them: arrays, no pickles


@dataclass(frozen=True, slots=True)
class Upload:
    """One folder and its repository."""

    folder: Path
    repository: str
    files: tuple[tuple[str, int], ...]
    """Relative path and size in bytes of each file."""
    kind: Kind = "model"
    """`space`: a page, which the hub serves as a static Space."""

    def lines(self) -> list[str]:
        """Return the upload as lines of text: a head, then one line per file."""
        total = sum(size for _, size in self.files)
        kind = {"model": "", "dataset": "dataset ", "space": "static Space "}[self.kind]
        head = f"{self.folder} -> {kind}{self.repository}: {len(self.files)} files, {total:,} bytes"
        return [head, *(f"  {size:>14,}  {name}" for name, size in self.files)]


def check_repository(name: str, flag: str = "--push") -> None:
    """Raise UserError, which names the flag, unless a name is owner/name."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"{flag} {name!r}: a repository of the hub is owner/name")


def plan(folders: Sequence[Path], repository: str) -> list[Upload]:
    """Return one upload per folder: the first to `repository`, others to `repository`-<their name>.

    Raises UserError for an invalid repository, a folder without a model card, and files that must not be published.
    """
    problems = problems_of(check_repository, repository)
    uploads = []
    for i, folder in enumerate(folders):
        files = list_files(folder)
        if not (folder / "README.md").exists():
            problems.append(f"{folder} holds no model card (README.md); export it again")
        kind: Kind = "space" if folder.name == "web" else "model"
        arrays = VECTORS if kind == "space" else ()
        pickles = [name for name, _ in files if Path(name).suffix in PICKLES and name not in arrays]
        problems += [f"{folder / name} is a pickle, which is never published" for name in pickles]
        target = repository if i == 0 else f"{repository}-{folder.name}"
        uploads.append(Upload(folder, target, files, kind))
    if problems:
        raise UserError(problems)
    return uploads


def list_files(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return relative path and size in bytes of each file of a folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)


def push(
    uploads: Sequence[Upload], hub: Any = None, *, is_private: bool = False, as_pull_request: bool = False
) -> list[str]:
    """Create missing repositories, upload, and return the addresses.

    hub: a huggingface_hub.HfApi, by default one with the token of `hf auth login`.  is_private: create the repository
    as private, and refuse one that is public.  as_pull_request: propose the upload to a repository that exists.
    """
    huggingface_hub = require("huggingface_hub", extra="hub")
    hub = hub or huggingface_hub.HfApi()
    errors = (huggingface_hub.errors.LocalTokenNotFoundError, OSError, ValueError)
    addresses = []
    for upload in uploads:
        try:
            kind = {} if upload.kind == "model" else {"repo_type": upload.kind}
            if not as_pull_request:
                sdk = {"space_sdk": "static"} if upload.kind == "space" else {}
                private = {"private": True} if is_private else {}
                hub.create_repo(upload.repository, exist_ok=True, **kind, **sdk, **private)
            if is_private and not hub.repo_info(upload.repository, **kind).private:
                raise UserError(f"--private: {upload.repository} exists and is public; choose another name")
            address = hub.upload_folder(
                repo_id=upload.repository,
                folder_path=upload.folder,
                commit_message="Export of worldclip",
                **kind,
                **({"create_pr": True} if as_pull_request else {}),
            )
        except UserError:
            raise
        except errors as error:
            raise UserError(
                f"{upload.folder} was not uploaded to {upload.repository}: {redact(explain(error))}; check that you may"
                " write to this repository"
            ) from error
        addresses.append(str(getattr(address, "pr_url", None) or address))
    return addresses
