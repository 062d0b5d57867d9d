"""`worldclip init`: a recipe drafted from a pool runs as it is."""

from __future__ import annotations

import json

import pytest

from miniature import write_files
from pools import write_parquet, write_table
from toy import write_tar
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.core.errors import UserError
from worldclip.tools import draft_recipe
from worldclip.tools.draft_recipe import draft, init

CAPTIONS = {
    "en": "a black dog runs over the green field near our house",
    "de": "ein schwarzer Hund läuft über das grüne Feld hinter dem Haus",
    "sw": "mbwa mweusi anakimbia kwenye shamba la kijani karibu na nyumba yetu",
}


def test_recipe_of_tars_loads_and_names_pool_and_languages(toy_world, tmp_path):
    drafted = init(str(toy_world.pool), out=tmp_path / "mine.toml")
    recipe = load_recipe(tmp_path / "mine.toml")
    assert recipe.pool.path == str(toy_world.pool)
    assert {"en", "ar", "th", "zh"} <= set(recipe.languages.codes)
    assert drafted["has_images"]
    assert recipe.train.model.preset == "vit_b32"


def test_file_names_bring_no_language(tmp_path):
    names = ["IMG_1465.jpg", "DSC00012.JPG", "20190506_123456.jpg", "IMG_1466", "https://x.org/a.jpg"]
    texts = [CAPTIONS["en"]] * 6 + names * 2
    folder = write_table(tmp_path / "pool/0.parquet", {"uid": [str(i) for i in range(16)], "text": texts}).parent
    drafted = draft(str(folder))
    assert drafted["languages"] == {"en": 6}


def test_first_call_says_that_it_compiles(toy_world, monkeypatch, capsys):
    for is_compiled, said in ((True, 0), (False, 1)):
        monkeypatch.setattr(draft_recipe, "is_compiled", lambda kernel, answer=is_compiled: answer)
        draft(str(toy_world.pool))
        assert capsys.readouterr().err.count("compiles language identification") == said


def test_stated_tags_of_one_language_are_one(tmp_path):
    tags = ["de-DE", "de_AT", "deu", "German", "en-US"]
    columns = {"uid": list("abcde"), "text": [CAPTIONS["de"]] * 5, "lang": tags}
    assert draft(str(write_table(tmp_path / "pool.parquet", columns)), lang="lang")["languages"] == {"de": 4, "en": 1}


def test_fields_of_tars_give_commented_lines(tmp_path):
    fields = {"url": "http://x/0.jpg", "NSFW": "UNLIKELY", "text": CAPTIONS["en"]}
    write_tar(tmp_path / "pool/0.tar", [("0.png", b""), ("0.json", json.dumps(fields).encode())])
    recipe = draft(str(tmp_path / "pool"))["recipe"]
    assert "where" not in recipe
    assert '# key = "json:url"' in recipe
    assert '# valid_keys = "checked/valid_keys.parquet"' in recipe


def test_columns_of_a_table_are_guessed_by_their_usual_names(tmp_path):
    texts = [text for text in CAPTIONS.values() for _ in range(10)]
    folder = write_table(tmp_path / "pool/0.parquet", {"URL": [f"u{i}" for i in range(30)], "Caption": texts}).parent
    drafted = draft(str(folder))
    assert (drafted["key"], drafted["texts"], drafted["has_images"]) == ("URL", ["Caption"], False)
    assert drafted["languages"] == {"en": 10, "de": 10, "sw": 10}
    assert drafted["without_words"] == ["sw"]
    assert '# lists.sw = "sw.txt"' in drafted["recipe"]
    assert "[train]" not in drafted["recipe"]


def test_drafted_recipe_runs_to_curate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [CAPTIONS["en"], CAPTIONS["de"]] * 10
    write_table(tmp_path / "photos/0.parquet", {"uid": [f"u{i}" for i in range(20)], "text": texts})
    assert main(["init", "photos"]) == 0
    assert main(["run", "photos.toml", "--set", "metadata.wordfreq_top=500", "--until", "curate"]) == 0
    assert json.loads((tmp_path / "runs/photos/curate/report.json").read_text())["total"]["pairs_out"] > 0


def test_column_names_cannot_break_the_recipe(tmp_path):
    folder = write_table(
        tmp_path / "pool/0.parquet", {"url": ["u"], "text": ["a dog"], "x\n[train]\nlr = 9": ["-"]}
    ).parent
    recipe = init(str(folder), out=tmp_path / "r.toml")
    assert load_recipe(tmp_path / "r.toml").train.lr != 9
    assert "\nlr = 9" not in recipe["recipe"]


def test_existing_file_and_pool_without_texts_are_refused(tmp_path):
    folder = write_table(tmp_path / "pool/0.parquet", {"url": ["u"], "width": ["9"]}).parent
    with pytest.raises(UserError, match=r"pool\.texts is not set and there is no column"):
        draft(str(folder))
    (tmp_path / "r.toml").write_text("")
    with pytest.raises(UserError, match=r"r\.toml exists; choose another file"):
        init(str(folder), out=tmp_path / "r.toml")


def test_table_without_a_usual_key_is_keyed_by_its_rows(tmp_path):
    rows = [{"text": f"a red apple {n}", "image": bytes([n]), "name": f"{n}.png"} for n in range(5)]
    write_parquet(tmp_path / "pool" / "0.parquet", rows)
    drafted = draft(str(tmp_path / "pool"))
    assert (drafted["key"], drafted["texts"], drafted["has_images"]) == ("row", ["text"], True)


def test_captions_that_are_not_utf_8_are_named(tmp_path):
    write_tar(tmp_path / "latin/0.tar", [("1.jpg", b"image"), ("1.txt", "caf\xe9".encode("latin-1"))])
    with pytest.raises(UserError, match=r"0\.tar, 1: its \.txt is not UTF-8; texts must be UTF-8 .*; or give --texts"):
        draft(str(tmp_path / "latin"))


def test_damaged_shards_are_skipped_or_named(tmp_path):
    write_files(tmp_path, {"pool/0.parquet": "not a table"})
    with pytest.raises(UserError, match=r"0\.parquet: not a Parquet file, or damaged"):
        draft(str(tmp_path / "pool"))
    write_table(tmp_path / "pool/1.parquet", {"uid": ["a"], "caption": ["a red apple"]})
    drafted = draft(str(tmp_path / "pool"))
    assert (drafted["key"], drafted["texts"], drafted["num_texts"]) == ("uid", ["caption"], 1)
