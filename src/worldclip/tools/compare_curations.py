"""Compare two curated lists: how many keys only one of them keeps, which, and in which languages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from worldclip import pool
from worldclip.contracts import layout
from worldclip.contracts.schemas import KEPT_BY_ONE
from worldclip.core.artifacts import write_tables
from worldclip.core.changes import changed_keys
from worldclip.core.job import Report, Run
from worldclip.core.printable import command_line, one_line
from worldclip.core.settings import read_toml
from worldclip.core.spill import BATCH_ROWS, open_database
from worldclip.curate import read_curated, require_current
from worldclip.report import table

if TYPE_CHECKING:
    import duckdb

NUM_EXAMPLES = 5  # keys of each run, chosen by a hash
SECTIONS = ("pool", "languages", "metadata", "match", "balance", "curate")
COUNTS = ("first", "second", "both", "only_first", "only_second")
# A key may have several texts in a list, and may be in several shards.
KEYS = "CREATE TABLE {} AS SELECT key, min({{'text_idx': text_idx, 'lang': lang}}).lang AS lang FROM rows GROUP BY key"
BY_LANGUAGE = """
    SELECT coalesce(a.lang, b.lang) AS language, count(a.key), count(b.key), count(*) FILTER (a.key = b.key),
        count(*) FILTER (b.key IS NULL), count(*) FILTER (a.key IS NULL)
    FROM first a FULL JOIN second b ON a.key = b.key GROUP BY language ORDER BY count(*) DESC, language
"""
ONLY = "SELECT key, lang FROM {} ANTI JOIN {} USING (key) ORDER BY {} {}"


def are_curations(paths: Sequence[Path]) -> bool:
    """Return whether these are two runs with curated lists, of which neither has an evaluation."""
    has_list = [layout.is_run(path) and layout.stage_report(path, "curate").exists() for path in paths]
    return len(paths) == 2 and all(has_list) and not any(layout.results(path).exists() for path in paths)


def compare_curations(first: Path, second: Path, out: Path | None = None) -> Report:
    """Return how many keys two curated lists share, and how many only one of them has, by language.

    A key counts once, in the language of its first kept text in the first list that has it.  out: Parquet file to
    write, with the keys that only one run keeps (KEPT_BY_ONE).

    Keys: runs; changes of the recipe, in words; total and languages {lang: {COUNTS}}; examples, for each run the keys
    and languages of up to NUM_EXAMPLES keys that only it keeps.

    Raises UserError for lists that are missing or out of date.
    """
    runs = [Run.open(first), Run.open(second)]
    recipes = []
    for run in runs:
        require_current(run)
        recipe = read_toml(run.dir)
        recipes.append({name: recipe.get(name, {}) for name in SECTIONS})
    examples = []
    with tempfile.TemporaryDirectory(prefix="worldclip_") as scratch, open_database(Path(scratch) / "keys") as database:
        for name, run in zip(("first", "second"), runs, strict=True):
            database.execute("CREATE OR REPLACE TABLE rows (key VARCHAR, text_idx INTEGER, lang VARCHAR)")
            for shard in pool.indexed_shards(run):
                database.from_arrow(read_curated(run.dir, shard, ["key", "text_idx", "lang"])).insert_into("rows")
            database.execute(KEYS.format(name))  # each key once
            database.execute("DROP TABLE rows")
        rows = database.sql(BY_LANGUAGE).fetchall()
        for name, other in (("first", "second"), ("second", "first")):
            query = ONLY.format(name, other, "md5(key)", f"LIMIT {NUM_EXAMPLES}")
            examples.append([{"key": key, "lang": lang} for key, lang in database.sql(query).fetchall()])
        if out is not None:
            write_tables(out, _kept_by_one(database, first, second), KEPT_BY_ONE)
    languages = {}
    total = dict.fromkeys(COUNTS, 0)
    for lang, *numbers in rows:
        languages[lang] = dict(zip(COUNTS, numbers, strict=True))
        for name, number in languages[lang].items():
            total[name] += number
    return {
        "runs": [str(first), str(second)],
        "changes": list(map(str, changed_keys(recipes[0], recipes[1]))),
        "total": total,
        "languages": languages,
        "examples": examples,
    }


def _kept_by_one(database: duckdb.DuckDBPyConnection, first: Path, second: Path) -> Iterator[pa.Table]:
    """Yield the keys that only one list has, with the columns of KEPT_BY_ONE, by run and key."""
    for name, other, run_dir in (("first", "second", first), ("second", "first", second)):
        for batch in database.sql(ONLY.format(name, other, "key", "")).to_arrow_reader(BATCH_ROWS):
            yield pa.table(batch.columns, batch.schema.names).append_column("kept_by", [[str(run_dir)] * len(batch)])


def to_text(compared: Report) -> str:
    """Return the counts by language, what differs between the recipes, and examples."""
    first, second = compared["runs"]
    titles = ("language", "first", "second", "both", "only first", "only second")
    columns = [table.text_column(titles[0]), *table.columns_of(titles[1:], "{:,}".format)]
    rows = []
    for lang, counts in {**compared["languages"], "all": compared["total"]}.items():
        rows.append([lang, *(counts[name] for name in COUNTS)])
    lines = [f"first: {first}", f"second: {second}", "", table.to_text(table.Table(columns, rows)), ""]
    lines.append(f"What differs from {first}: {'; '.join(compared['changes']) or 'nothing in the recipe'}")
    for run, other, examples in ((first, second, compared["examples"][0]), (second, first, compared["examples"][1])):
        if examples:
            shown = ", ".join(f"{one_line(row['key'])} ({row['lang']})" for row in examples)
            lines.append(f"only {run} keeps, for example: {shown}")
            lines.append(f"  why not {other}: {command_line('inspect', other, '--key', 'KEY')}")
    return "\n".join(lines)
