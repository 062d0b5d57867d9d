"""Upload folders to the hub: plan what goes where, show it, then push.

Files of an earlier upload that the folder no longer holds are deleted from the repository.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldclip.core.errors import UserError, require
from worldclip.core.hub_errors import explain
from worldclip.core.preflight import missing_packages, problems_of
from worldclip.core.redact import redact
from worldclip.model.formats import MODEL_FORMATS, written_formats
from worldclip.model.weights import PICKLES

Kind = Literal["model", "dataset", "space"]
TAG = "worldclip"  # tag of every card that worldclip publishes
NUM_NAMED = 3  # files that a message names


@dataclass(frozen=True, slots=True)
class Upload:
    """One folder and its repository."""

    folder: Path
    repository: str
    files: tuple[tuple[str, int], ...]
    """Relative path and size in bytes of each file."""
    own_files: tuple[str, ...]
    """Patterns of the files of earlier uploads, but for the card; `*` matches a slash, too."""
    kind: Kind = "model"
    """`space`: a page, which the hub serves as a static Space."""

    def lines(self) -> list[str]:
        """Return the upload as lines of text: a head, then one line per file."""
        total = sum(size for _, size in self.files)
        kind = {"model": "", "dataset": "dataset ", "space": "static Space "}[self.kind]
        head = f"{self.folder} -> {kind}{self.repository}: {len(self.files)} files, {total:,} bytes"
        return [head, *(f"  {size:>14,}  {name}" for name, size in self.files)]


@dataclass(frozen=True, slots=True)
class Pushed:
    """An upload that is done."""

    upload: Upload
    address: str
    """Of the repository, or of the pull request."""
    removed: tuple[str, ...]
    """Files of earlier uploads that the folder no longer holds."""
    has_history: bool
    """Whether the repository held files of earlier uploads."""

    def lines(self) -> list[str]:
        """Return the address, what was removed, and how to remove it from the history, too."""
        lines = [self.address]
        name = self.upload.repository
        if self.removed:
            lines.append(f"{name}: removed what {self.upload.folder} no longer holds: {_named(self.removed)}")
        if self.has_history:
            kind = "" if self.upload.kind == "model" else f", repo_type='{self.upload.kind}'"
            lines += [
                f"{name}: its history still holds the files of earlier uploads. To rewrite the history:",
                f"  python -c \"from huggingface_hub import HfApi; HfApi().super_squash_history('{name}'{kind})\"",
            ]
        return lines


def _named(files: Sequence[str]) -> str:
    more = f" and {len(files) - NUM_NAMED} more" if len(files) > NUM_NAMED else ""
    return f"{', '.join(files[:NUM_NAMED])}{more}"


def check_push(repository: str | None, *, dry_run: bool) -> None:
    """Raise UserError for what would stop --push after the work: an invalid repository, a missing package.

    Without --push, --dry-run is refused: the export would be written.
    """
    if not repository:
        if dry_run:
            raise UserError("--dry-run lists what --push would upload; add --push OWNER/NAME, or leave it out")
        return
    problems = problems_of(check_repository, repository)
    if not dry_run:
        problems += missing_packages("--push", extra="hub")
    if problems:
        raise UserError(problems)


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
        facts = MODEL_FORMATS.load(folder.name).CARD
        kind: Kind = "space" if facts.is_page else "model"
        pickles = [name for name, _ in files if Path(name).suffix in PICKLES and name not in facts.arrays]
        problems += [f"{folder / name} is a pickle, which is never published" for name in pickles]
        target = repository if i == 0 else f"{repository}-{folder.name}"
        uploads.append(Upload(folder, target, files, _own_files(is_page=facts.is_page), kind))
    if problems:
        raise UserError(problems)
    return uploads


def _own_files(*, is_page: bool) -> tuple[str, ...]:
    """Return the patterns of all pages, or of all other formats: a repository may have held another one."""
    cards = [item.CARD for item in written_formats().values()]
    patterns = [pattern for card in cards if card.is_page == is_page for pattern in card.files]
    return ("recipe.toml", *dict.fromkeys(patterns))


def list_files(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return relative path and size in bytes of each file of a folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)


def push(
    uploads: Sequence[Upload], hub: Any = None, *, is_private: bool = False, as_pull_request: bool = False
) -> list[Pushed]:
    """Create missing repositories, upload, and delete what earlier uploads left there and the folder does not hold.

    hub: a huggingface_hub.HfApi, by default one with the token of `hf auth login`.  is_private: create the repository
    as private, and refuse one that is public.  as_pull_request: propose the upload to a repository that exists.

    Raises UserError where a file to delete is in a repository that worldclip did not publish.
    """
    huggingface_hub = require("huggingface_hub", extra="hub")
    hub = hub or huggingface_hub.HfApi()
    of_hub = huggingface_hub.errors
    # The bases are those of the library that the hub's client speaks HTTP with: no network is one of its errors
    errors = (of_hub.LocalTokenNotFoundError, *of_hub.HfHubHTTPError.__bases__, OSError, ValueError)
    pushed = []
    for upload in uploads:
        try:
            pushed.append(_push(upload, hub, is_private, as_pull_request))
        except UserError:
            raise
        except errors as error:
            raise UserError(
                f"{upload.folder} was not uploaded to {upload.repository}: {redact(explain(error))}; check that you may"
                " write to this repository, and the network"
            ) from error
    return pushed


def _push(upload: Upload, hub: Any, is_private: bool, as_pull_request: bool) -> Pushed:
    repository = upload.repository
    kind = {} if upload.kind == "model" else {"repo_type": upload.kind}
    is_new = not as_pull_request and not hub.repo_exists(repository, **kind)
    if not as_pull_request:
        sdk = {"space_sdk": "static"} if upload.kind == "space" else {}
        private = {"private": True} if is_private else {}
        hub.create_repo(repository, exist_ok=True, **kind, **sdk, **private)
    info = hub.repo_info(repository, **kind)
    if is_private and not info.private:
        raise UserError(f"--private: {repository} exists and is public; choose another name")
    names = {name for name, _ in upload.files}
    held = [] if is_new else hub.list_repo_files(repository, **kind)
    older = [name for name in held if is_own(name, upload.own_files)]
    removed = tuple(sorted(name for name in older if name not in names))
    if removed and TAG not in (info.tags or ()):
        raise UserError(
            f"{repository} holds files that worldclip did not publish and the upload would delete: {_named(removed)}; "
            f"choose another name, delete them, or give its card the tag {TAG}"
        )
    address = hub.upload_folder(
        repo_id=repository,
        folder_path=upload.folder,
        commit_message="Export of worldclip",
        delete_patterns=list(upload.own_files),
        **kind,
        **({"create_pr": True} if as_pull_request else {}),
    )
    return Pushed(upload, str(getattr(address, "pr_url", None) or address), removed, has_history=bool(older))


def is_own(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a file of a repository is one that earlier uploads wrote."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
