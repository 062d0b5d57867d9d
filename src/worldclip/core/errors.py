"""The three ways in which work can fail, and the exit code of each (set in cli/)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType


class UserError(ValueError):
    """A mistake of the user: all problems at once, each with key, value, meaning and remedy.  Exit code 2."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class BadShard(RuntimeError):
    """A shard that cannot be read (truncated tar, wrong schema); the others finish.  Exit code 1."""


class StageFailed(RuntimeError):
    """Some shards of a stage failed; `failures` maps each shard's name to its reason.  Exit code 1."""

    def __init__(
        self,
        stage: str,
        failures: dict[str, str],
        remedy: str = "repair or remove these files, then run the same command: only they are tried again",
    ) -> None:
        self.stage, self.failures = stage, failures
        lines = [f"  {shard}: {reason}" for shard, reason in sorted(failures.items())]
        super().__init__("\n".join([f"{stage}: {len(failures)} shard(s) failed", *lines, remedy]))


def require(module: str, *, extra: str) -> ModuleType:
    """Import and return `module`.  Raises ImportError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is needed here: pip install 'worldclip[{extra}]'") from error
