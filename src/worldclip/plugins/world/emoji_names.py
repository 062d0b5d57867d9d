"""Names of the emoji in 14 languages, as the package emoji carries them; CLDR's annotations replace them."""

from __future__ import annotations

from collections.abc import Collection

from worldclip.core.errors import require
from worldclip.plugins.emoji.build import LANGS
from worldclip.plugins.world.parts import Part, Text, subject_of


def read_emoji_names(subjects: Collection[str], without: Collection[str] = ()) -> Part:
    """Return the names of the fully-qualified emoji among `subjects`; without: languages that another part names."""
    package = require("emoji", extra="world")
    part = Part(
        name="emoji",
        title="Names of emoji",
        licence="Unicode-3.0",
        notice="The Python package emoji (BSD licence, https://github.com/carpedm20/emoji), which takes them from the "
        "Unicode Common Locale Data Repository, Unicode License v3 (https://www.unicode.org/license.txt).",
        version=str(package.__version__),
    )
    langs = [lang for lang in LANGS if lang not in without]
    for lang in langs:
        package.config.load_language(lang)
    for char, record in package.EMOJI_DATA.items():
        subject = subject_of(char)
        if subject in subjects and record["status"] == package.STATUS["fully_qualified"]:
            for lang in langs:
                name = record.get(lang, "").strip(":").replace("_", " ").strip()
                part.texts.append(Text(subject, lang, name))
    return part
