"""The context that the steps of a check share, and where each keeps its table of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.check.config import CheckConfig
from worldclip.check.hashing import HashKind
from worldclip.core.execute import Shard
from worldclip.core.settings import to_dict
from worldclip.language.table import Languages
from worldclip.model.worker import WorkerModel
from worldclip.pool.config import PoolConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckContext:
    """A pool, the rules and the output folder; small, because it is sent to the workers."""

    pool: PoolConfig
    lid_model: str
    languages: Languages
    config: CheckConfig
    folder: Path
    kind: HashKind
    similarity_model: WorkerModel | None = None

    @property
    def pool_record(self) -> dict[str, Any]:
        """The options of the pool that decide a check: all but the weights of texts, which matter only later."""
        return {key: value for key, value in to_dict(self.pool).items() if key != "text_weights"}

    def table_path(self, step: str, shard: Shard) -> Path:
        """Return the path of a step's table of a shard.

        Steps: images (facts and hashes), scores/<classifier>, faces, similarity, judged (verdicts of the pair rules),
        removed_texts, final (verdicts after duplicates).
        """
        return self.folder / step / f"{shard.name}.parquet"
