"""Write the list of docs/world.md: languages of recipes/world.toml that lid.176 has no label for, and GlotLID has.

python docs/world_labels.py
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

from worldclip.language.table import by_code

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "world.md"
BEGIN = "<!-- labels: written by docs/world_labels.py -->\n"
END = "<!-- end of labels -->\n"


def label_table() -> str:
    """Return the sentence with the numbers, and the codes in alphabetical order."""
    codes = tomllib.loads((ROOT / "recipes" / "world.toml").read_text(encoding="utf-8"))["languages"]["codes"]
    lacking = [language for language in (by_code()[code] for code in codes) if not language.lid176]
    labelled = sorted(language.code for language in lacking if language.iso639_3)
    lines = [
        f"Of the {len(codes)} languages of `recipes/world.toml` lid.176 has a label for {len(codes) - len(lacking)}. "
        f"The scheme of GlotLID has one for {len(labelled)} more, or labels of a macrolanguage's members, such as "
        "`fuv_Latn` of ff, which belong to its list:",
        f"{', '.join(labelled)}.",
    ]
    if without := [language.code for language in lacking if not language.iso639_3]:
        lines.append(f"Neither has one for {', '.join(without)}.")
    return "\n\n".join(textwrap.fill(line, 120) for line in lines) + "\n"


def with_table(page: str) -> str:
    """Return the page with the table in place of what is between the two marks."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + label_table() + END, page, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
