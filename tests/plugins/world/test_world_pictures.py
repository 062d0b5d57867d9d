"""Stamps, photographs and icons: whole parts, and what a bad file costs."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import pytest

from pools import encode
from stages import QUIET
from world_parts import packed, write_appstream, write_rcc, write_stamps
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.core.safe_path import UnsafeName
from worldclip.plugins.world import build, gcompris, packages
from worldclip.plugins.world.appstream import read_appstream
from worldclip.plugins.world.draw import FORMATS, UNDRAWABLE, draw, draw_file
from worldclip.plugins.world.gcompris import read_gcompris, read_resources
from worldclip.plugins.world.parts import Picture
from worldclip.plugins.world.stamps import read_stamps

Image = pytest.importorskip("PIL.Image", reason="extra world is not installed")
CATALOGUE = """---
File: DEP-11
Version: '1.0'
---
Type: desktop-application
ID: org.example.Draw
Name: {C: Draw, de: Zeichnen}
Summary: {C: Draw a picture, sr-Latn: Nacrtaj sliku}
Description:
  C: >-
    <p>: not read</p>
Keywords: {C: [pencil, paper]}
Icon:
  cached:
  - {name: draw_draw.png, width: 64, height: 64}
  - {name: draw_draw.png, width: 128, height: 128}
---
Type: desktop-application
ID: org.example.NoIcon
Name: {C: No icon}
---
ID: org.example.Broken
Name: {C: [unclosed
---
ID: org.example.Lost
Name: {C: Lost}
Icon: {cached: [{name: lost.png, width: 128, height: 128}]}
"""


def png(side: int = 20, mode: str = "RGB") -> bytes:
    return encode(Image.new(mode, (side, side // 2), "red"))


def test_stamp_has_captions_in_its_locales(tmp_path):
    caption = "An owl.\nde.utf8=Eine Eule.\nsr@latin.utf8=Sova.\nfr.utf8=\n"
    part = read_stamps(write_stamps(tmp_path, {"birds/owl": caption}, png()))
    (picture,) = part.pictures
    assert (picture.kind, picture.file) == ("stamp", "stamps/birds/owl.png")
    expected = [("en", "An owl."), ("de", "Eine Eule."), ("sr@latin", "Sova.")]
    assert [(text.locale, text.name) for text in part.texts] == expected


def test_stamp_without_caption_and_caption_without_stamp_are_left_out(tmp_path):
    write_stamps(tmp_path, {"owl": "An owl.\n", "cat": "A cat.\n", "dog": "A dog.\n\xff\n"}, png())
    (tmp_path / "stamps" / "owl.txt").unlink()
    (tmp_path / "stamps" / "cat.png").unlink()
    (tmp_path / "stamps" / "dog.txt").write_bytes(b"A dog.\nde.utf8=\xff\n")
    (tmp_path / "stamps" / "dog_mirror.png").write_bytes(png())
    part = read_stamps(tmp_path)
    assert [text.name for text in part.texts] == ["A dog."]
    assert part.problems == {
        "no caption": ["stamps/owl.png"],
        "no picture": ["stamps/cat.txt"],
        "not UTF-8": ["dog.txt, line 2"],
    }


def test_photographs_and_their_words_come_out_of_the_resource_file(tmp_path):
    words = packed(json.dumps({"apple.ogg": "ein Apfel", "lamp.ogg": "eine Lampe", "pear.ogg": ""}).encode())
    files = {"apple.webp": (0, b"RIFF"), "content-de.json": words, "content-fr.json": (0, b"{"), "other.qml": (4, b"")}
    path = write_rcc(tmp_path / "lang.rcc", files)
    assert read_resources(str(path), ())["/content-de.json"] is not None
    assert read_resources(str(path), ())["/other.qml"] is None
    part = read_gcompris(tmp_path)
    assert part.pictures == []  # none in words_sample/
    assert list(part.problems) == [next(reason for reason in part.problems if "cannot be read" in reason)]


@pytest.mark.parametrize("content", [b"", b"qres", b"qres" + b"\xff" * 40, b"not a resource file at all....."])
def test_other_file_in_place_of_the_resource_file_is_named(tmp_path, content):
    (tmp_path / "lang.rcc").write_bytes(content)
    with pytest.raises(UserError, match=r"lang\.rcc: not a resource file"):
        read_gcompris(tmp_path)


@pytest.mark.parametrize("file", [packed(b"x" * 600), (0, b"x" * 600)], ids=["packed", "plain"])
def test_resource_file_of_too_many_bytes_is_refused(tmp_path, monkeypatch, file):
    monkeypatch.setattr(gcompris, "MAX_TOTAL_BYTES", 1000)
    path = write_rcc(tmp_path / "one" / "lang.rcc", {"a.webp": file})
    assert read_resources(str(path), ()) == {"/a.webp": b"x" * 600}
    write_rcc(tmp_path / "two" / "lang.rcc", {"a.webp": file, "b.webp": file})
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        read_gcompris(tmp_path / "two")


def test_icon_has_name_summary_and_keywords(tmp_path):
    part = read_appstream(write_appstream(tmp_path, CATALOGUE, {"draw_draw.png": png(), "stray.png": png()}))
    (picture,) = part.pictures
    assert (picture.kind, picture.file) == ("icon", "draw_draw.png")
    texts = {text.locale: (text.name, text.keywords) for text in part.texts}
    assert texts["en"] == ("Draw", ("Draw a picture", "pencil", "paper"))
    assert texts["de"][0] == "Zeichnen"
    assert texts["sr-Latn"] == ("", ("Nacrtaj sliku",))
    assert part.problems["no icon or no name"] == ["org.example.NoIcon"]
    assert part.problems["no icon in the archive"] == ["org.example.Lost"]
    assert part.problems["icon of no program"] == ["stray.png"]
    assert any("cannot be read" in reason for reason in part.problems)


@pytest.mark.parametrize(
    "texts",
    [
        "Name: plain",
        "Name: [a, b]",
        "Name: {C: Draw}\nSummary: text",
        "Name: {C: Draw}\nSummary:",
        "Name: {C: Draw}\nKeywords: [pencil]",
    ],
)
def test_program_whose_texts_have_no_locales_costs_only_itself(tmp_path, texts):
    odd = f"---\nID: org.example.Odd\n{texts}\nIcon: {{cached: [{{name: odd.png, width: 128, height: 128}}]}}\n"
    part = read_appstream(write_appstream(tmp_path, CATALOGUE + odd, {"draw_draw.png": png(), "odd.png": png()}))
    assert [picture.file for picture in part.pictures] == ["draw_draw.png"]
    assert part.problems["no icon or no name"] == ["org.example.NoIcon", "org.example.Odd"]


def test_cut_catalogue_and_cut_icons_cost_only_what_is_cut(tmp_path):
    many = CATALOGUE + "".join(f"---\nID: org.example.{i}\nName: {{C: program {i}}}\n" for i in range(20_000))
    write_appstream(tmp_path, many, {"draw_draw.png": png()})
    catalogue = tmp_path / "main_Components-amd64.yml.gz"
    catalogue.write_bytes(catalogue.read_bytes()[:-2000])
    part = read_appstream(tmp_path)
    assert len(part.pictures) == 1
    assert any(reason.startswith("ends early") for reason in part.problems)


def test_picture_is_centred_on_white():
    with Image.open(io.BytesIO(draw_file(png(20), 16))) as image:
        assert image.size == (16, 16)
        assert image.getpixel((8, 8)) == (255, 0, 0)
        assert image.getpixel((8, 0)) == (255, 255, 255)


@pytest.mark.parametrize("content", [b"", b"no picture", png()[:40], b"<svg", b'<!DOCTYPE s [<!ENTITY a "x">]><svg'])
def test_picture_that_will_not_decode_raises_what_the_build_counts(content):
    with pytest.raises(UNDRAWABLE):
        draw_file(content, 16)


def test_bombs_and_formats_of_no_part_raise_what_the_build_counts():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UNDRAWABLE, match="pixels"):
        draw_file(bomb, 16)
    with pytest.raises(UNDRAWABLE, match="cannot identify"):
        draw_file(encode(Image.new("RGB", (4, 4)), "TIFF"), 16)


@pytest.mark.parametrize("name", FORMATS)
def test_picture_of_each_format_is_drawn(name):
    image = Image.new("RGB", (4, 4))
    assert draw_file(encode(image, name), 16) == draw_file(encode(image), 16)


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 8 8">{}</svg>'


@pytest.mark.parametrize(
    "drawing",
    [
        SVG.format('<image href="{0}" width="8" height="8"/>'),
        SVG.format("<image xlink:href=' {0}' width='8' height='8'/>"),
        SVG.format('<filter id="f"><feImage href="{0}"/></filter><rect width="8" height="8" filter="url(#f)"/>'),
        '<!DOCTYPE svg [<!ENTITY e \'<image hre&#102;="{0}" width="8" height="8"/>\'>]>' + SVG.format("&e;"),
        "<!DOCTYPE svg [<!ENTITY e '{0}'>]>" + SVG.format('<image href="&e;" width="8" height="8"/>'),
        SVG.format('<image href="data:image/svg+xml;utf8,{0}" width="8" height="8"/>'),
    ],
)
def test_drawing_that_shows_a_file_of_this_machine_is_refused(drawing, tmp_path):
    (tmp_path / "own.png").write_bytes(png())
    with pytest.raises(ValueError, match="links to a file"):
        draw_file(drawing.replace("{0}", str(tmp_path / "own.png")).encode(), 16)


def test_drawing_with_a_picture_inside_of_itself_and_links_is_drawn():
    embedded = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    linked = f'<a href="https://example.org"><image href="{embedded}" width="8" height="8"/></a>'
    assert draw_file(SVG.format(linked).encode(), 16) != draw_file(SVG.format("").encode(), 16)


def test_stamp_is_read_below_its_folder_alone(tmp_path):
    picture = Picture(key="k", subject="k", kind="stamp", part="stamps", file="../secret.png")
    with pytest.raises(UnsafeName):
        draw(picture, {"stamps": tmp_path}, 16)


@pytest.mark.parametrize("train_on_stamps", [False, True])
def test_stamps_are_trained_on_only_if_asked_for(tmp_path, monkeypatch, train_on_stamps):
    files = packages.openmoji_files()
    monkeypatch.setattr(packages, "openmoji_files", lambda: {"1F34E": files["1F34E"]})
    stamps = write_stamps(tmp_path / "stamps", {"owl": "An owl.\n", "bad": "Bad.\n"}, png())
    (stamps / "stamps" / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    build.build_world(out, {"stamps": stamps}, train_on_stamps=train_on_stamps, image_px=16, executor=QUIET)
    counts = read_json(out / "counts.json")
    assert counts["pairs"]["samples"] == (2 if train_on_stamps else 1)
    assert ("stamps" in counts) is not train_on_stamps
    assert len(counts["undrawable"]) == 1
    assert "GPL-2.0" in (out / "README.md").read_text()
