"""The world pool from a part of OpenMoji and small folders in their sources' formats, whole, cut and hostile."""

import io
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from killed import contents, modified
from miniature import write_files
from pools import encode, rows_of_tar
from stages import QUIET
from world_parts import packed, write_appstream, write_fluent, write_json, write_rcc, write_stamps, write_xml
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.preflight import is_installed
from worldclip.core.safe_path import UnsafeName
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import load
from worldclip.language.table import by_code
from worldclip.plugins.drawings import openmoji_files
from worldclip.plugins.emoji.build import POOL_EMOJI
from worldclip.plugins.world import build, gcompris, packages
from worldclip.plugins.world.appstream import read_appstream
from worldclip.plugins.world.cldr import read_cldr
from worldclip.plugins.world.commands import pool_world
from worldclip.plugins.world.draw import UNDRAWABLE, draw, draw_file
from worldclip.plugins.world.gcompris import read_gcompris, read_resources
from worldclip.plugins.world.iconify import drawing, read_flags, read_fluent
from worldclip.plugins.world.names import Names, Table
from worldclip.plugins.world.parts import Part, Picture, char_of, flag_of
from worldclip.plugins.world.sets import REQUIRES
from worldclip.plugins.world.stamps import read_stamps


@pytest.fixture(scope="session", autouse=True)
def extra() -> None:
    """Skip without the extra `world`."""
    if missing := [name for name in REQUIRES.modules if not is_installed(name)]:
        pytest.skip(f"extra world is not installed: {', '.join(missing)}")


TONES = ("", "-1F3FB", "-1F3FC", "-1F3FD", "-1F3FE", "-1F3FF")
HANDS = [f"{hand}{tone}" for hand in ("1F44B", "1F44D", "1F44F", "1F64F", "1F4AA", "270B") for tone in TONES]
FLAGS = [flag_of(code) for code in ("FR", "DE", "JP", "KE", "BR", "IN", "TR", "GE", "FI", "VN", "PE", "CA")]
OTHERS = ["1F34E", "1F436", "1F30D", "E000"]  # an apple, a dog, the earth; one of OpenMoji's own, without a name


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parts")
    apple, dog, hand = char_of("1F34E"), char_of("1F436"), char_of("1F44B-1F3FB")
    write_xml(root / "cldr", "no", {apple: ("rødt eple", ["eple", "frukt"]), dog: ("hundefjes", ["hund"])})
    write_xml(root / "cldr", "nn", {apple: ("raudt eple", [])})
    germany = char_of(flag_of("DE"))
    write_xml(root / "cldr", "de", {apple: ("roter Apfel", ["Apfel", "Obst"]), germany: ("! Flagge", ["rot"])})
    write_xml(root / "cldr", "de", {hand: ("winkende Hand: helle Hautfarbe", ["winken"])}, derived=True)
    write_xml(root / "cldr", "de_CH", {apple: ("roter Öpfel", ["Öpfel", "Obst"])})
    write_xml(root / "cldr", "xx_nowhere", {apple: ("?", [])})
    write_json(root / "cldr", "fr", {apple: ("pomme rouge", ["pomme", "France", "Allemagne"])})
    names = {"1f34e": "red-apple", "1f436": "lost"} | {key.lower(): key for key in HANDS}
    fluent = write_fluent(root / "fluent", names, lost="<path")
    flags = write_fluent(root / "flags", {"x": "fr", "y": "jp-4x3", "z": "lang-de"})
    return {"cldr": root / "cldr", "fluent": fluent, "flags": flags}


NAMED_FLAGS = {"ur": 5, "hi": 6}  # of twelve: fewer than half, and half of them


@pytest.fixture(scope="module", autouse=True)
def few_drawings() -> Iterator[None]:
    """Let OpenMoji have some 50 drawings, and some languages names of few flags."""
    files = openmoji_files()
    chosen = {key: files[key] for key in [*HANDS, *FLAGS, *OTHERS] if key in files}

    def read_some(subjects):
        part = packages.read_territories(subjects)
        part.texts = [text for text in part.texts if text.subject in FLAGS[: NAMED_FLAGS.get(text.locale[:2])]]
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "openmoji_files", lambda: chosen)
        patch.setattr(build, "read_territories", read_some)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory, parts) -> Path:
    out = tmp_path_factory.mktemp("world") / "pool"
    build.build_world(out, parts, image_px=16, samples_per_shard=20, executor=QUIET)
    return out


def samples(folder: Path) -> dict[str, dict]:
    return {row["key"]: row for path in sorted(folder.glob("*.tar")) for row in rows_of_tar(path)}


def texts_of(record: dict, lang: str) -> list[str]:
    return [text for text, code in zip(record["texts"], record["lang_truth"], strict=True) if code == lang]


def test_drawings_have_their_name_first_then_keywords_also_of_parent_and_regional_locales(built):
    pairs = samples(built / "train")
    for key in ("openmoji-1F34E", "fluent-1F34E"):
        assert texts_of(pairs[key], "no") == ["rødt eple", "eple", "frukt"]
        assert texts_of(pairs[key], "fr")[:2] == ["pomme rouge", "pomme"]
    assert pairs["fluent-1F34E"]["licence"] == "MIT"
    assert pairs["openmoji-1F34E"]["source"] == "openmoji"
    assert texts_of(pairs["openmoji-1F34E"], "nn") == ["raudt eple", "eple", "frukt"]
    assert texts_of(pairs["openmoji-1F436"], "nn") == ["hundefjes", "hund"]
    assert texts_of(pairs["openmoji-1F34E"], "de") == ["roter Apfel", "Apfel", "Obst", "roter Öpfel", "Öpfel"]


def test_held_out_names_of_territories_are_not_in_training_in_their_language(built):
    names = read_json(built / "names.json")
    pairs = samples(built / "train")
    held = names["held_flags"]
    assert sum(map(len, held.values())) > 20
    for lang, subjects in held.items():
        in_lang = {text for record in pairs.values() for text in texts_of(record, lang)}
        for subject in subjects:
            assert names["lang"][lang][names["subjects"].index(subject)] not in in_lang
            assert texts_of(pairs[f"openmoji-{subject}"], lang) == []
            assert pairs[f"openmoji-{subject}"]["texts"]
    assert all(len(texts_of(record, "sv")) for key, record in pairs.items() if key.startswith("openmoji-1F1"))


def test_a_name_of_a_held_out_flag_is_not_in_training_of_another_picture_in_its_language():
    flag = flag_of("KE")
    texts = {flag: Names(("Kenya",), has_name=True), "map": Names(("map", "Kenya"), has_name=True)}
    names = {subject: {"en": of_subject, "sw": of_subject} for subject, of_subject in texts.items()}
    table = Table(names=names, held_flags={"sw": [flag]})
    assert table.training_texts("map") == (["map", "Kenya", "map"], ["en", "en", "sw"])
    assert table.training_texts(flag) == (["Kenya"], ["en"])


def test_held_out_sets_ask_for_what_they_hold_in_languages_that_name_half_of_it(built):
    names = read_json(built / "names.json")
    flags = [names["subjects"].index(subject) for subject in FLAGS]
    for folder in ("tone", "base", "flags", "flags_held"):
        dataset = load(f"world_{folder}", EvaluateConfig(datasets=(f"world_{folder}",)), built.parent)
        subjects = [names["pictures"][key]["subject"] for key in dataset.image_keys]
        num_asked = {}
        for lang, of_lang in names["lang"].items():
            name_of = dict(zip(names["subjects"], of_lang, strict=True))
            asked = [subject for subject in subjects if name_of[subject] is not None]
            is_asked = len(asked) >= len(subjects) / 2
            if folder == "flags_held":
                is_asked = sum(of_lang[i] is not None for i in flags) >= len(flags) / 2
                asked = [subject for subject in asked if subject in names["held_flags"].get(lang, ())]
            if is_asked and asked and lang in by_code():
                classification, _ = dataset.tasks(lang)
                expected = [name_of[subject] for subject in asked]
                assert [classification.class_names[i][0] for i in classification.target] == expected
                num_asked[lang] = len(asked)
        assert {*dataset.languages} == {*num_asked}
    assert names["held_flags"]["ur"]
    assert "ur" not in num_asked
    assert num_asked["hi"] == len(names["held_flags"]["hi"])


def test_held_out_tone_is_in_no_drawing_of_training(built):
    pictures = read_json(built / "names.json")["pictures"]
    held = {record["subject"] for record in pictures.values() if record["split"] == "tone"}
    assert held
    assert held == {key.removeprefix("openmoji-") for key in samples(built / "tone")}
    assert not held & {key.partition("-")[2] for key in samples(built / "train")}


def test_names_keywords_and_counts_say_what_the_pool_holds_and_what_was_left_out(built):
    names, counts = read_json(built / "names.json"), read_json(built / "counts.json")
    apple, france = (names["subjects"].index(subject) for subject in ("1F34E", flag_of("FR")))
    expected = {"source": "fluent", "kind": "emoji", "licence": "MIT", "subject": "1F34E", "split": "train"}
    assert names["pictures"]["fluent-1F34E"] == expected
    assert names["lang"]["nn"][apple] == "raudt eple"
    assert names["lang"]["sw"][apple] is None
    assert names["lang"]["sw"][france] == "Ufaransa"
    assert names["lang"]["de"][names["subjects"].index(flag_of("DE"))] == "Deutschland"
    assert read_json(built / "keywords.json")["de"]["1F34E"] == ["Apfel", "Obst", "roter Öpfel", "Öpfel"]
    assert {record["kind"] for record in names["pictures"].values()} == {"emoji", "flag", "toned"}
    assert counts["unknown_locales"] == {"xx_nowhere": 1}
    assert list(counts["undrawable"]) == ["fluent-1F436"]
    assert counts["parts"]["openmoji"]["left_out"] == {"no text": 1}
    assert "fluent-1F436" not in names["pictures"]
    for name in ("train", "tone", "base", "flags"):
        of_set = samples(built / name)
        num_texts = sum(len(record["texts"]) for record in of_set.values())
        assert counts[name] == {"samples": len(of_set), "texts": num_texts}
    assert counts["without_row"]["agq"] > 0


def test_two_workers_write_the_same_bytes_and_only_what_changes_is_drawn_again(built, parts, tmp_path):
    times = []
    for _ in range(2):
        executor = LocalExecutor(workers=2, quiet=True)
        build.build_world(tmp_path, parts, image_px=16, samples_per_shard=20, executor=executor)
        times.append(modified(tmp_path, "*.tar"))
    assert contents(tmp_path) == contents(built)
    assert times[0] == times[1]
    build.build_world(tmp_path, {}, image_px=16, samples_per_shard=30, executor=QUIET)  # without some parts
    assert not [key for key in samples(tmp_path / "train") if key.startswith(("fluent", "flags"))]
    assert len(list((tmp_path / "train").iterdir())) == -(-len(samples(tmp_path / "train")) // 30)


@pytest.mark.parametrize("command", [pool_world, POOL_EMOJI], ids=["world", "emoji"])
def test_files_of_others_in_the_folder_stay(command, tmp_path):
    """Its sets are folders with plain names, in which everything else is removed."""
    write_files(tmp_path, {"tone/mine.jpg": "mine", "README.md": "mine"})
    unfinished_check = {".lock": "process 1", "images/0.tar.parquet": "hashes"}
    for problem, files in (("was not written by worldclip", {}), ("holds 'images', which", unfinished_check)):
        write_files(tmp_path, files)
        before = contents(tmp_path)
        with pytest.raises(UserError, match=problem):
            command.function(tmp_path, image_px=16, executor=QUIET)
        assert contents(tmp_path) == before


def test_the_command_draws_again_into_its_folder(tmp_path):
    for _ in range(2):
        report, _ = pool_world.function(tmp_path, image_px=16, executor=QUIET)
    assert report == read_json(tmp_path / "counts.json")


APPLE = "\U0001f34e"
SUBJECTS = {"1F34E", "1F436"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<?xml version="1.0"?><ldml><annotations><annotation cp="\U0001f34e" type="tts">re', "cannot be read"),
        ('<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/hosts">]><ldml>&a;</ldml>', "entities"),
        ('<ldml><annotation cp="[\U0001f34e]" tts="red apple">apple; fruit</annotation></ldml>', "CLDR 29 or older"),
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


Image = pytest.importorskip("PIL.Image", reason="extra world is not installed")
ImageOps = pytest.importorskip("PIL.ImageOps")
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


TUX = {
    "birds/owl": "An owl.\nde.utf8=Eine Eule.\nsr@latin.utf8=Sova.\nfr.utf8=\nde=?\n",
    "red owl": "A red owl.\n",
    "red-owl": "\nde.utf8=Noch eine.\n",
    "gone": "No picture.\n",
}
WORDS = {"owl.ogg": "die Eule", "dog.ogg": " der Hund ", "elk.ogg": "", "other.ogg": "?"}
FLAG_SET = {
    "prefix": "flag",
    "width": 4,
    "icons": {"fr": {"body": "<a/>"}, "jp-4x3": {"body": "<b/>", "width": 2}, "lang-de": {"body": "<c/>"}, "de": {}},
    "aliases": {"gf": {"parent": "fr", "hFlip": True}, "mq": {"parent": "gf", "hFlip": True}, "xx": {"parent": "yy"}},
}
READERS = {
    "appstream": read_appstream,
    "cldr": lambda folder: read_cldr(folder, SUBJECTS),
    "flags": read_flags,
    "fluent": read_fluent,
    "gcompris": read_gcompris,
    "stamps": read_stamps,
}


@pytest.fixture(scope="module")
def sources(parts, tmp_path_factory) -> Path:
    """Return a folder with each part below its name; read it, do not change it."""
    root = tmp_path_factory.mktemp("sources")
    (root / "cldr").symlink_to(parts["cldr"])
    write_fluent(root / "fluent", {"1f34e": "red-apple", "1f44b-1f3fb-fe0f": "hand", "1f1eb-1f1f7": "flag", "zz": "no"})
    write_files(root / "fluent", {"chars.json": (root / "fluent/chars.json").read_text()[:-1] + ', "1f436": "gone"}'})
    write_appstream(root / "appstream", CATALOGUE, {"draw_draw.png": png(), "stray.png": png()})
    stamps = write_stamps(root / "stamps", TUX, png())
    (stamps / "stamps/gone.png").unlink()
    extra = {"birds/owl.svg": "<svg/>", "birds/owl_mirror.svg": "<svg/>", "mute.png": png(), "odd.png": png()}
    write_files(stamps / "stamps", {**extra, "odd.txt": b"Odd.\nde.utf8=\xff\nfr.utf8=Autre.\n"})
    photos = {f"data/words_sample/{word}.webp": (0, word.encode()) for word in ("owl", "elk", "dog")}
    texts = {"de": json.dumps(WORDS).encode(), "fr": b"[", "pt_BR": b'{"dog.ogg": "o cachorro"}'}
    words = {f"data/content-{locale}.json": packed(content) for locale, content in texts.items()}
    write_rcc(root / "gcompris/share/lang.rcc", {**words, **photos})
    second = {"prefix": "circle", "icons": {"fr": {"body": "<d/>"}}}
    write_files(root / "flags", {"a/icons.json": json.dumps(FLAG_SET), "b/icons.json": json.dumps(second)})
    write_files(root / "flags", {"a/package.json": '{"version": "2.0"}'})
    return root


def lines_of(part: Part) -> str:
    """Return all that a part holds as lines of text."""
    lines = [f"{picture.kind} {picture.subject}: {picture.key}, {picture.file}" for picture in part.pictures]
    lines += [f"{text.locale} {text.subject}: {' | '.join([text.name, *text.keywords])}" for text in part.texts]
    lines += [f"left out, {reason.partition(': ')[0]}: {', '.join(items)}" for reason, items in part.problems.items()]
    return "\n".join([f"{part.title}, version {part.version!r}", *lines])


@pytest.mark.parametrize("name", READERS)
def test_a_part_holds_the_pictures_and_texts_of_its_source(name, sources, snapshot):
    assert lines_of(READERS[name](sources / name)) == snapshot


def test_a_flag_is_drawn_with_the_flips_of_its_aliases(sources, snapshot):
    files = [picture.file for picture in read_flags(sources / "flags").pictures]
    assert {file: drawing(sources / "flags", file).decode() for file in files} == snapshot


NEEDED = {
    "appstream": ("main_Components-amd64.yml.gz", "main_icons-128x128.tar.gz"),
    "flags": ("*/icons.json",),
    "fluent": ("icons.json", "chars.json"),
    "gcompris": ("share/lang.rcc",),
    "stamps": ("**/*g",),
}


@pytest.mark.parametrize(("name", "pattern"), [(name, file) for name, files in NEEDED.items() for file in files])
def test_a_part_without_a_file_that_it_needs_is_refused(name, pattern, sources, tmp_path):
    folder = shutil.copytree(sources / name, tmp_path / name)
    for path in list(folder.glob(pattern)):
        path.unlink()
    with pytest.raises(UserError, match=f"--{name} is "):
        READERS[name](folder)


def test_parts_that_change_are_read_again_by_the_same_process(sources, tmp_path):
    folder = shutil.copytree(sources, tmp_path / "parts")
    before = {name: lines_of(read(folder / name)) for name, read in READERS.items()}
    write_appstream(folder / "appstream", CATALOGUE, {"lost.png": png()})
    write_rcc(folder / "gcompris/share/lang.rcc", {"words_sample/owl.webp": (0, b"")})
    write_files(folder, {"flags/b/icons.json": json.dumps(FLAG_SET | {"prefix": "new"})})
    write_files(
        folder, {"fluent/icons.json": '{"icons": {}}', "cldr/annotations/nn.xml": "", "stamps/stamps/mute.txt": "x"}
    )
    after = {name: lines_of(read(folder / name)) for name, read in READERS.items()}
    assert not before.items() & after.items()
    fresh = shutil.copytree(folder, tmp_path / "fresh")
    assert after == {name: lines_of(read(fresh / name)) for name, read in READERS.items()}


@pytest.mark.parametrize("file", [packed(b"x" * 600), (0, b"x" * 600)], ids=["packed", "plain"])
def test_resource_file_of_too_many_bytes_is_refused(tmp_path, monkeypatch, file):
    monkeypatch.setattr(gcompris, "MAX_TOTAL_BYTES", 1000)
    path = write_rcc(tmp_path / "lang.rcc", {"a.webp": file})
    assert read_resources(str(path), ()) == {"/a.webp": b"x" * 600}
    write_rcc(path, {"a.webp": file, "b.webp": file})
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        read_gcompris(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture", png()[:40], b"<svg", b'<!DOCTYPE s [<!ENTITY a "x">]><svg'])
def test_picture_that_will_not_decode_raises_what_the_build_counts(content):
    with pytest.raises(UNDRAWABLE):
        draw_file(content, 16)


def test_a_picture_is_centred_on_white_at_its_longer_side():
    for size, box in (((20, 10), (0, 4, 16, 12)), ((6, 30), (6, 0, 9, 16)), ((8, 8), (0, 0, 16, 16))):
        drawn = Image.open(io.BytesIO(draw_file(encode(Image.new("RGB", size, "black")), 16)))
        assert ImageOps.invert(drawn).getbbox() == box


def test_bombs_and_formats_of_no_part_raise_what_the_build_counts():
    with pytest.raises(UNDRAWABLE, match="cannot identify"):
        draw_file(encode(Image.new("RGB", (4, 4)), "TIFF"), 16)
    bomb = bytearray(png())
    bomb[16:24] = struct.pack(">II", 20_000, 20_000)  # of its header
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(UNDRAWABLE, match="pixels"):
        draw_file(bytes(bomb), 16)


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


@pytest.mark.parametrize("train_on_stamps", [False, True])
def test_stamps_are_trained_on_only_if_asked_for_and_read_below_their_folder(tmp_path, monkeypatch, train_on_stamps):
    files = packages.openmoji_files()
    monkeypatch.setattr(packages, "openmoji_files", lambda: {"1F34E": files["1F34E"]})
    stamps = write_stamps(tmp_path / "stamps", {"owl": "An owl.\n", "bad": "Bad.\n"}, png())
    (stamps / "stamps" / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    build.build_world(out, {"stamps": stamps}, train_on_stamps=train_on_stamps, image_px=16, executor=QUIET)
    counts = read_json(out / "counts.json")
    assert counts["train"]["samples"] == (2 if train_on_stamps else 1)
    assert ("stamps" in counts) is not train_on_stamps
    assert len(counts["undrawable"]) == 1
    names = read_json(out / "names.json")
    for path in out.glob("*/set.json"):
        for key, position in read_json(path)["subjects"].items():
            assert names["subjects"][position] == names["pictures"][key]["subject"]
    assert "GPL-2.0" in (out / "README.md").read_text()
    picture = Picture(key="k", subject="k", kind="stamp", part="stamps", file="../secret.png")
    with pytest.raises(UnsafeName):
        draw(picture, {"stamps": tmp_path}, 16)
