"""The sources of the entries with their licences, as a table of the data card and of the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldclip.report.table import Table, text_column, to_markdown

NOT_STATED = "not stated"


def sources_table(manifest: Mapping[str, Any]) -> str:
    """Return each source with its licence and the lists made from it, as Markdown; "" where none is recorded.

    manifest: that of the stage metadata.
    """
    lists: dict[tuple[str, str, str], list[str]] = {}
    for name, sources in sorted(manifest.get("sources", {}).items()):
        for source in sources:
            origin: dict[str, None] = {}  # names once each: the path is often the file's name
            for key in ("package", "version", "file", "path", "name"):
                if source.get(key):
                    origin[str(source[key])] = None
            licence = source.get("licence") or NOT_STATED
            lists.setdefault((str(source["source"]), " ".join(origin), licence), []).append(name)
    for views in manifest.get("pageviews", []):
        lists[("page views", views.get("file", ""), views.get("licence") or NOT_STATED)] = ["all"]
    if not lists:
        return ""
    columns = list(map(text_column, ("source", "from", "licence", "languages")))
    return to_markdown(Table(columns, [[*source, ", ".join(names)] for source, names in sorted(lists.items())]))
