"""Names of territories, the texts of the flags: Unicode's CLDR, as the package Babel carries it."""

from __future__ import annotations

from collections.abc import Iterable

from worldclip.core.errors import require
from worldclip.language.locale_data import read_own_data
from worldclip.plugins.world.locales import is_main
from worldclip.plugins.world.parts import Part, Text, territory_of


def read_territories(subjects: Iterable[str]) -> Part:
    """Return the names of the territories among `subjects` in every locale of Babel.

    A language's locale has all its names, inherited ones too; a regional locale adds only those that it spells in its
    own way.
    """
    localedata = require("babel.localedata", extra="world")
    part = Part(
        name="territories",
        title="Names of territories",
        licence="Unicode-3.0",
        notice="The Python package Babel (BSD licence), which takes them from the Unicode Common Locale Data "
        "Repository, Unicode License v3 (https://www.unicode.org/license.txt).",
        version=str(require("babel", extra="world").__version__),
    )
    flags = sorted((territory_of(subject), subject) for subject in subjects if territory_of(subject))
    for locale in sorted(localedata.locale_identifiers()):
        data = localedata.load(locale) if is_main(locale) else read_own_data(locale, extra="world")
        names = data.get("territories", {})
        for territory, subject in flags:
            name = names.get(territory, "")
            if name and name != territory:  # a locale without a name inherits the code from the root
                part.texts.append(Text(subject, locale, name))
    return part
