"""What the real parts hold, where their packages are installed: the counts of docs/world.md.

Packages of npm are looked for in data/world, where examples/world puts them, or in the folder that WORLDCLIP_WORLD
names; Debian's there and where Debian puts them.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from worldclip.language.locale_data import read_own_data
from worldclip.plugins.world.appstream import read_appstream
from worldclip.plugins.world.cldr import read_cldr
from worldclip.plugins.world.gcompris import read_gcompris
from worldclip.plugins.world.iconify import read_flags, read_fluent
from worldclip.plugins.world.locales import is_main
from worldclip.plugins.world.packages import read_emoji_names, read_openmoji, read_territories
from worldclip.plugins.world.parts import Part, territory_of
from worldclip.plugins.world.stamps import read_stamps

DATA = Path(os.environ.get("WORLDCLIP_WORLD", Path(__file__).parents[3] / "data" / "world"))


def folder_of(part: str, *installed: str) -> Path:
    """Return the folder of a part; skips the test if there is none."""
    for path in (DATA / part, *map(Path, installed)):
        if path.is_dir():
            return path
    pytest.skip(f"part {part} is not installed; examples/world/README.md says how to get it")


def names_by_language(part: Part) -> dict[str, set[str]]:
    names = defaultdict(set)
    for text in part.texts:
        if text.name:
            names[text.locale.replace("-", "_").partition("_")[0]].add(text.subject)
    return names


def test_openmoji_has_4495_drawings_and_258_flags():
    part = read_openmoji()
    assert len(part.pictures) >= 4495
    assert sum(bool(territory_of(picture.subject)) for picture in part.pictures) >= 258


def test_emoji_are_named_in_14_languages():
    part = read_emoji_names({picture.subject for picture in read_openmoji().pictures})
    names = names_by_language(part)
    assert len(names) == 14
    assert min(map(len, names.values())) >= 3944


def test_babel_names_at_least_200_territories_in_211_languages():
    part = read_territories({picture.subject for picture in read_openmoji().pictures})
    main = Counter(text.locale for text in part.texts if is_main(text.locale))
    full = [count for count in main.values() if count >= 200]
    assert len(full) >= 211
    assert sum(full) >= 52_782  # of the 53,270 names, those of territories whose flag is drawn


def test_reading_one_locale_alone_changes_no_other_locale():
    from babel import localedata

    read_own_data("de_AT", extra="world")
    assert "Deutschland" in localedata.load("de_AT")["territories"].values()
    assert "DE" not in read_own_data("de_AT", extra="world").get("territories", {})


@pytest.mark.slow
@pytest.mark.parametrize("part", ["cldr", "cldr_debian"])
def test_annotations_name_emoji_in_142_languages(part):
    installed = "/usr/share/unicode/cldr" if part == "cldr_debian" else ""
    read = read_cldr(folder_of(part, *filter(None, [installed])), _Everything())
    names = names_by_language(read)
    is_old = part == "cldr_debian"  # version 46
    assert len(names) >= (138 if is_old else 141)
    assert sum(bool(text.name) for text in read.texts) >= (490_000 if is_old else 523_772)
    assert sum(len(text.keywords) for text in read.texts) >= (2_590_000 if is_old else 2_970_000)
    assert sum(len(subjects) >= 3700 for subjects in names.values()) >= (98 if is_old else 100)
    assert not read.problems


class _Everything(set):
    """Contains whatever it is asked for."""

    def __contains__(self, item: object) -> bool:
        return True


def test_fluent_has_3139_drawings_of_emoji():
    part = read_fluent(folder_of("fluent"))
    assert len(part.pictures) >= 3139  # of 3,174 drawings, 35 have no code points
    assert not part.problems


def test_three_sets_have_four_drawings_of_most_flags():
    part = read_flags(folder_of("flags"))
    drawn = Counter(picture.subject for picture in part.pictures)
    assert sum(count >= 4 for count in drawn.values()) >= 240


PARTS = {  # folders, at least so many pictures, texts, locales
    read_stamps: (("stamps", "/usr/share/tuxpaint/stamps"), 951, 61_797, 78),
    read_gcompris: (("gcompris", "/usr/share/gcompris-qt"), 116, 4_990, 50),
    read_appstream: (("appstream",), 1_481, 75_461, 1),
}


@pytest.mark.parametrize("read", PARTS)
def test_parts_with_pictures_of_their_own_have_their_texts(read):
    folders, num_pictures, num_texts, num_locales = PARTS[read]
    part = read(folder_of(*folders))
    assert len(part.pictures) >= num_pictures
    assert sum(bool(text.name) + sum(map(bool, text.keywords)) for text in part.texts) >= num_texts
    assert len({text.locale for text in part.texts}) >= num_locales
