"""CLDR's annotations as XML and JSON, whole, cut and hostile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from world_parts import write_json, write_xml
from worldclip.plugins.world.cldr import read_cldr

APPLE, DOG = "\U0001f34e", "\U0001f436"
SUBJECTS = {"1F34E", "1F436"}


LAUGHS = (
    '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {new} "{10 * f"&{old};"}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + ']><ldml><annotations><annotation cp="\U0001f34e">&i;</annotation></annotations></ldml>'
)
"""A billion letters, if entities were read."""


def texts(folder: Path) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    return {(text.locale, text.subject): (text.name, text.keywords) for text in read_cldr(folder, SUBJECTS).texts}


def test_xml_and_json_of_the_same_content_read_alike(tmp_path):
    annotations = {APPLE: ("red apple", ["apple", "fruit"]), DOG: ("dog face", ["dog"])}
    write_xml(tmp_path / "xml", "en", annotations)
    write_json(tmp_path / "json", "en", annotations)
    assert texts(tmp_path / "xml") == texts(tmp_path / "json")
    assert texts(tmp_path / "xml")["en", "1F34E"] == ("red apple", ("apple", "fruit"))
    assert read_cldr(tmp_path / "json", SUBJECTS).version == "48.2.0"


def test_variation_selectors_do_not_separate_an_emoji_from_its_drawing(tmp_path):
    write_xml(tmp_path, "en", {APPLE + "\ufe0f": ("red apple", [])})
    assert texts(tmp_path) == {("en", "1F34E"): ("red apple", ())}


def test_arrows_stand_for_the_value_of_the_parent(tmp_path):
    write_xml(tmp_path, "no", {APPLE: ("rødt eple", ["eple"])})
    write_xml(tmp_path, "nn", {APPLE: ("↑↑↑", ["↑↑↑"])})
    assert texts(tmp_path)["nn", "1F34E"] == ("rødt eple", ("eple",))


def test_other_script_inherits_nothing(tmp_path):
    write_xml(tmp_path, "sr", {APPLE: ("јабука", [])})
    write_xml(tmp_path, "sr_Latn", {DOG: ("pas", [])})
    assert ("sr_Latn", "1F34E") not in texts(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<?xml version="1.0"?><ldml><annotations><annotation cp="\U0001f34e" type="tts">re', "cannot be read"),
        ('<!DOCTYPE l [<!ENTITY a "aaa">]><ldml><annotation cp="\U0001f34e">&a;</annotation></ldml>', "entities"),
        ('<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/hosts">]><ldml>&a;</ldml>', "entities"),
        (LAUGHS, "entities"),
        ('<ldml><annotation cp="[\U0001f34e]" tts="red apple">apple; fruit</annotation></ldml>', "CLDR 29 or older"),
        ("not XML at all", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_bad_xml_is_left_out_with_its_reason_and_others_stay(tmp_path, content, reason):
    write_xml(tmp_path, "en", {APPLE: ("red apple", [])})
    (tmp_path / "annotations" / "fr.xml").write_text(content, encoding="utf-8")
    part = read_cldr(tmp_path, SUBJECTS)
    assert [text.locale for text in part.texts] == ["en"]
    ((message, items),) = part.problems.items()
    assert reason in message
    assert items == ["annotations/fr.xml"]


@pytest.mark.parametrize("record", [[], {}, {"annotations": 3}, {"annotations": {"annotations": {"a": []}}}, "x"])
def test_json_of_another_shape_is_left_out(tmp_path, record):
    write_json(tmp_path, "en", {APPLE: ("red apple", [])})
    other = write_json(tmp_path, "fr", {})
    other.write_text(json.dumps(record), encoding="utf-8")
    part = read_cldr(tmp_path, SUBJECTS)
    assert [text.locale for text in part.texts] == ["en"]
    assert part.problems == {"cannot be read: not CLDR's annotations": [other.relative_to(tmp_path).as_posix()]}


def test_two_versions_in_a_folder_are_both_named(tmp_path):
    write_json(tmp_path / "new", "en", {APPLE: ("red apple", ["new"])})
    write_xml(tmp_path / "old", "en", {APPLE: ("apple, red", ["old"]), DOG: ("dog face", ["dog"])})
    (tmp_path / "old" / "ldml.dtd").write_text('<!ATTLIST version cldrVersion CDATA #FIXED "46" >')
    part = read_cldr(tmp_path, SUBJECTS)
    assert part.version == "46, 48.2.0"
    assert {text.subject: text.name for text in part.texts} == {"1F34E": "red apple", "1F436": "dog face"}
