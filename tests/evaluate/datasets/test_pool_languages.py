"""Captions of a pool that states no language are evaluated in the language that they are in."""

from __future__ import annotations

from pathlib import Path

from evaluated import record
from tars import sample, write_tar
from toy import ToyWorld, draw_shape
from worldclip.evaluate import tables
from worldclip.evaluate.datasets.pool import MIN_TEXTS, load
from worldclip.evaluate.tasks import Retrieval

CAPTIONS = {
    "en": "this is a photo of the old house number {} in the city",
    "de": "das ist ein Foto von dem alten Haus Nummer {} in der Stadt",
    "th": "นี่คือรูปถ่ายของบ้านเก่าหลังที่ {} ในเมือง",
}


def write_pool(folder: Path, num_of_lang: dict[str, int], **fields: str) -> Path:
    members = []
    for lang, number in num_of_lang.items():
        for i in range(number):
            record = {"text": CAPTIONS[lang].format(i), **fields}
            members += sample(f"{lang}{i}", None, record)
            members.append((f"{lang}{i}.png", draw_shape(i % 5, (i, i, i), 0)))
    write_tar(folder / "0.tar", members)
    return folder


def test_rows_are_by_identified_language(tmp_path: Path) -> None:
    dataset = load("held", write_pool(tmp_path, {"en": 25, "de": 22, "th": MIN_TEXTS - 1}))
    assert list(dataset.languages) == ["de", "en", "und"]
    (task,) = dataset.tasks("de")
    assert isinstance(task, Retrieval)
    assert task.texts == [CAPTIONS["de"].format(i) for i in range(22)]
    (rest,) = dataset.tasks("und")
    assert isinstance(rest, Retrieval)
    assert rest.texts == [CAPTIONS["th"].format(i) for i in range(MIN_TEXTS - 1)]


def test_stated_languages_are_kept(tmp_path: Path, toy_world: ToyWorld) -> None:
    dataset = load("held", write_pool(tmp_path, {"en": 25}, lang_truth="sw"))
    assert list(dataset.languages) == ["sw"]
    assert list(load("toy", toy_world.pool).languages) == ["ar", "en", "th", "zh"]


def test_tags_of_one_language_are_one_row(tmp_path: Path) -> None:
    for tag in ("de-DE", "de_AT", "deu", "tlh"):
        write_pool(tmp_path / tag, {"de": 2}, lang_truth=tag)
    dataset = load("held", tmp_path)
    assert list(dataset.languages) == ["de", "tlh"]
    (task,) = dataset.tasks("de")
    assert isinstance(task, Retrieval)
    assert len(task.texts) == 6


def test_languages_at_chance_are_named() -> None:
    bounds = {"en": (0.6, 0.8), "de": (0.45, 0.6), "th": (0.3, 0.49)}
    chance = {"acc1": 0.5}
    records = [record(lang, chance=chance, intervals={"acc1": bounds[lang]}, acc1=0.5) for lang in bounds]
    table = tables.markdown_table(records)
    assert "At chance (every 95% interval reaches what guessing gives): de, th.\n" in table
    assert "At chance" not in tables.markdown_table(records[:1])
