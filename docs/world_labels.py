"""Write the table of docs/world.md: languages of recipes/world.toml that lid.176 has no label for, and GlotLID's label.

python docs/world_labels.py
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path

from worldclip.language.table import by_code

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "world.md"
BEGIN = "<!-- labels: written by docs/world_labels.py -->\n"
END = "<!-- end of labels -->\n"


def label_table() -> str:
    """Return the table, one row per family, the largest first, and a line of the languages without any label."""
    codes = tomllib.loads((ROOT / "recipes" / "world.toml").read_text(encoding="utf-8"))["languages"]["codes"]
    languages = [by_code()[code] for code in codes]
    lacking = [language for language in languages if not language.lid176]
    of_family = defaultdict(list)
    for language in lacking:
        if language.iso639_3:
            label = language.iso639_3[0]
            label = label if "_" in label else f"{label}_{language.script}"
            of_family[language.family].append(f"{language.code} `{label}`")
    num_more = sum(map(len, of_family.values()))
    lines = [
        f"Of the {len(languages)} languages of `recipes/world.toml` lid.176 has a label for "
        f"{len(languages) - len(lacking)}; the scheme of GlotLID has one for {num_more} more (or labels of a "
        "macrolanguage's members, such as `fuv_Latn` of ff, which belong to its list):",
        "",
        "| family | languages and labels |",
        "|---|---|",
    ]
    for family, labels in sorted(of_family.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"| {family} | {', '.join(labels)} |")
    if without := [language.code for language in lacking if not language.iso639_3]:
        lines += ["", f"Neither has one for {', '.join(without)}."]
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return the page with the table in place of what is between the two marks."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + label_table() + END, page, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
