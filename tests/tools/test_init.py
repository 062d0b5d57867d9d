"""`worldclip init` drafts, at the first try, a recipe that reads the pools that people have and runs as it is."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from miniature import Files, write_files
from pools import parquet_of, texts_of, write_parquet, write_table
from tars import as_json
from toy import encode_png, write_tar
from worldclip import pool
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.contracts.reasons import Reason
from worldclip.core.errors import UserError
from worldclip.tools import draft_recipe, pool_sample
from worldclip.tools.draft_recipe import draft, init

DOG = "a black dog runs over the green field near our house"
HUND = "ein schwarzer Hund läuft über das grüne Feld hinter dem Haus"
TINY = {"image_size": 30, "patch_size": 3, "preset": "tiny"}
MBWA = "mbwa mweusi anakimbia kwenye shamba la kijani karibu na nyumba yetu"


def pool_of(folder: Path, **columns: list[Any]) -> str:
    """Write FOLDER/pool with one table."""
    return str(write_table(folder / "pool/0.parquet", columns).parent)


def test_recipe_of_tars_loads_and_names_pool_and_languages(toy_world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool_sample, "is_compiled", lambda kernel: False)
    drafted = init(str(toy_world.pool), out=tmp_path / "mine.toml")
    assert capsys.readouterr().err.count("compiles language identification") == 1
    recipe = load_recipe(tmp_path / "mine.toml")
    assert recipe.pool.path == str(toy_world.pool)
    assert {"en", "ar", "th", "zh"} <= set(recipe.languages.codes)
    assert drafted["has_images"]
    assert recipe.train.model.preset == "tiny"  # the pictures have 32 pixels
    assert (recipe.train.model.image_size, recipe.train.model.patch_size) == (32, 4)
    with pytest.raises(UserError, match=r"mine\.toml exists"):
        init(str(toy_world.pool), out=tmp_path / "mine.toml")


@pytest.mark.parametrize(("side", "model"), [(300, {"preset": "vit_b32"}), (70, {"preset": "vit_b32"}), (30, TINY)])
def test_the_size_of_the_first_images_decides_the_drafted_model(tmp_path, side, model):
    text = DOG.encode()
    image = encode_png(np.zeros((90, side, 3), np.uint8))
    members = {"a.png": b"broken", "a.txt": text, "b.png": image, "b.txt": text}
    write_tar(tmp_path / "pool/0.tar", members)
    assert tomllib.loads(draft(str(tmp_path / "pool"))["recipe"])["train"]["model"] == model


def test_file_names_bring_no_language_and_stated_tags_of_one_language_are_one(tmp_path):
    names = ["IMG_1465.jpg", "DSC00012.JPG", "20190506_123456.jpg", "IMG_1466", "https://x.org/a.jpg"]
    folder = pool_of(tmp_path, uid=[str(i) for i in range(16)], text=[DOG] * 6 + names * 2)
    assert draft(folder)["languages"] == {"en": 6}
    folder = pool_of(tmp_path, uid=list("abcde"), text=[HUND] * 5, lang=["de-DE", "de_AT", "deu", "German", "en-US"])
    assert draft(folder, lang="lang")["languages"] == {"de": 4, "en": 1}


@pytest.mark.parametrize(("num_texts", "num_found"), [(300, 5), (900, 9)])
def test_a_few_texts_that_are_taken_for_another_language_do_not_bring_it(tmp_path, num_texts, num_found):
    codes = ["en"] * (num_texts - 2 * num_found + 1) + ["de"] * num_found + ["tr"] * (num_found - 1)
    folder = pool_of(tmp_path, uid=list(map(str, range(num_texts))), text=[DOG] * num_texts, lang=codes)
    drafted = draft(folder, lang="lang")
    assert drafted["languages"]["tr"] == num_found - 1
    assert tomllib.loads(drafted["recipe"])["languages"]["codes"] == ["en", "de"]
    assert "; left out, with less than 1% of the texts or 5: tr." in drafted["recipe"].replace("\n# ", " ")


def test_fields_of_tars_give_commented_lines(tmp_path):
    fields = {"url": "http://x/0.jpg", "NSFW": "UNLIKELY", "text": DOG}
    write_tar(tmp_path / "pool/0.tar", [("0.png", b""), ("0.json", json.dumps(fields).encode())])
    recipe = draft(str(tmp_path / "pool"))["recipe"]
    assert "where" not in recipe
    assert '# key = "json:url"' in recipe
    assert '# valid_keys = "checked/valid_keys.parquet"' in recipe


def test_columns_of_a_table_are_guessed_by_their_usual_names(tmp_path):
    texts = [text for text in (DOG, HUND, MBWA) for _ in range(10)]
    drafted = draft(pool_of(tmp_path, URL=[f"u{i}" for i in range(30)], Caption=texts))
    assert (drafted["key"], drafted["texts"], drafted["has_images"]) == ("URL", ["Caption"], False)
    assert drafted["languages"] == {"en": 10, "de": 10, "sw": 10}
    assert drafted["without_words"] == ["sw"]
    assert '# lists.sw = "sw.txt"' in drafted["recipe"]
    assert "[train]" not in drafted["recipe"]
    rows = [{"text": f"a red apple {n}", "image": bytes([n]), "name": f"{n}.png"} for n in range(5)]
    write_parquet(tmp_path / "rows" / "0.parquet", rows)
    drafted = draft(str(tmp_path / "rows"))
    assert (drafted["key"], drafted["texts"], drafted["has_images"]) == ("row", ["text"], True)


def test_languages_of_the_last_shards_are_found_too(tmp_path):
    for number in range(20):
        write_table(tmp_path / f"pool/{number:02}.parquet", {"uid": ["a"], "text": [HUND if number > 9 else DOG]})
    assert draft(str(tmp_path / "pool"))["languages"] == {"en": 5, "de": 3}


def test_drafted_recipe_runs_to_curate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "photos/0.parquet", {"uid": [f"u{i}" for i in range(20)], "text": [DOG, HUND] * 10})
    assert main(["init", "photos"]) == 0
    assert main(["run", "photos.toml", "--set", "metadata.wordfreq_top=500", "--until", "curate"]) == 0
    assert json.loads((tmp_path / "runs/photos/curate/report.json").read_text())["total"]["pairs_out"] > 0


def test_pools_without_usable_texts_are_named_as_what_they_are(tmp_path):
    write_tar(tmp_path / "latin/0.tar", [("1.jpg", b"image"), ("1.txt", "caf\xe9".encode("latin-1"))])
    write_table(tmp_path / "no texts/0.parquet", {"url": ["u"], "width": ["9"]})
    files = {"cut/0.parquet": "not a table", "records/0.tfrecord": "", "json/captions.json": "{}", "photos/a/1.jpg": ""}
    write_files(tmp_path, files)
    for name, problem in (
        ("latin", r"0\.tar, 1: its text is not UTF-8"),
        ("no texts", r"pool\.texts is not set and there is no column"),
        ("cut", r"0\.parquet: not a Parquet file, or damaged"),
        ("records", "only .tfrecord files"),
        ("json", "only .json files"),
        ("photos", "worldclip pool pack FOLDER --out TARS"),
    ):
        with pytest.raises(UserError, match=problem):
            draft(str(tmp_path / name))
    write_table(tmp_path / "cut/1.parquet", {"uid": ["a"], "caption": ["a red apple"]})  # the damaged one is skipped
    assert draft(str(tmp_path / "cut"))["texts"] == ["caption"]


URLS = ["https://a.example/1.jpg", "https://a.example/2.jpg"]
IMAGES = [b"\xff\xd8\xff1", b"\xff\xd8\xff2"]
SCORES = {"similarity": [0.3, 0.2], "punsafe": [0.1, 0.9], "pwatermark": [0.2, 0.3]}
STATUS = {"status": ["success", "failed_to_download"], "error_message": [None, "404"]}


def table(**columns: list[Any]) -> Files:
    return {"00000.parquet": parquet_of(columns)}


def tar(**members: bytes) -> Files:
    """Return a tar of one sample, suffix -> content."""
    return {"00000.tar": {f"000000000.{suffix}": content for suffix, content in members.items()}}


# What is written; key, texts and lang of the recipe; texts that are kept
POOLS: dict[str, tuple[Files, str, list[str], str | None, list[str]]] = {
    "img2dataset webdataset": (
        tar(jpg=IMAGES[0], txt=DOG.encode(), json=as_json({"url": URLS[0], "NSFW": "NSFW"})),
        "member", [], None, [DOG],
    ),
    "img2dataset parquet": (
        table(url=URLS, key=["000000000", "000000001"], caption=[DOG, HUND], jpg=[IMAGES[0], None], **STATUS),
        "key", ["caption"], None, [DOG],
    ),
    "LAION-5B": (table(URL=URLS, TEXT=[DOG, HUND], hash=[1, 2], **SCORES), "URL", ["TEXT"], None, [DOG, HUND]),
    "LAION-5B in many languages": (
        table(URL=URLS, TEXT=[DOG, HUND], LANGUAGE=["en", "de"], **SCORES), "URL", ["TEXT"], "LANGUAGE", [DOG, HUND],
    ),
    "re-LAION": (table(url=URLS, caption=[DOG, HUND], key=["a", "b"], **SCORES), "key", ["caption"], None, [DOG, HUND]),
    "CommonPool": (
        table(uid=["a", "b"], url=URLS, text=[DOG, HUND], clip_b32_similarity_score=[0.3, 0.2], sha256=["x", "y"]),
        "uid", ["text"], None, [DOG, HUND],
    ),
    "Recap-DataComp": (
        table(url=URLS, re_caption=[DOG, HUND], org_caption=["dog", "Hund"], key=["0", "0"], re_clip_score=[0.3, 0.3]),
        "url", ["re_caption", "org_caption"], None, [DOG, "dog", HUND, "Hund"],
    ),
    "CC12M": ({"cc12m.tsv": f"{URLS[0]}\t{DOG}\n{URLS[1]}\t{HUND}\n"}, "url", ["caption"], None, [DOG, HUND]),
    "CC3M": ({"Train_GCC.tsv": f"{DOG}\t{URLS[0]}\n{HUND}\t{URLS[1]}\n"}, "url", ["caption"], None, [DOG, HUND]),
    "open_clip's table": (
        {"train.csv": f"filepath\ttitle\n1.jpg\t{DOG}\n2.jpg\t{HUND}\n"}, "row", ["title"], None, [DOG, HUND],
    ),
    "a spreadsheet": (
        {"alt.csv": f'url;alt_text\n{URLS[0]};"{DOG}"\n{URLS[1]};{HUND}\n'},
        "url", ["alt_text"], None, [DOG, HUND],
    ),
    "lists of captions": (
        table(image=IMAGES, captions=[[DOG, "dog"], [HUND]], sentids=[[1, 2], [3]]),
        "row", ["captions"], None, [DOG, "dog", HUND],
    ),
    "tars with captions under another name": (
        tar(jpg=IMAGES[0], json=as_json({"llava_caption": DOG})), "member", ["json:llava_caption"], None, [DOG],
    ),
    "imagefolder with captions under another name": (
        table(file_name=["1.jpg", "2.jpg"], llava_caption=[DOG, HUND]),
        "file_name", ["llava_caption"], None, [DOG, HUND],
    ),
    "imagefolder": (
        {"metadata.jsonl": json.dumps({"file_name": "1.jpg", "text": DOG})},
        "file_name", ["text"], None, [DOG],
    ),
}  # fmt: skip


def kept_texts(folder: Path) -> list[str]:
    recipe = load_recipe(folder.parent / "r.toml")
    read = [texts_of(shard, recipe.pool) for shard in pool.list_shards(recipe.pool)]
    return [
        str(text) for texts in read for text in texts.text.filter(pa.array(texts.reason == Reason.KEPT)).to_pylist()
    ]


@pytest.mark.parametrize("name", POOLS)
def test_the_drafted_recipe_reads_the_pool(name, tmp_path):
    files, key, texts, lang, expected = POOLS[name]
    folder = write_files(tmp_path / "pool", files)
    init(str(folder), out=tmp_path / "r.toml")
    config = load_recipe(tmp_path / "r.toml").pool
    assert (config.key, list(config.texts), config.lang) == (key, texts, lang)
    assert kept_texts(folder) == expected


TITLES = f"1.jpg\t{DOG}\n2.jpg\t{HUND}\n"


@pytest.mark.parametrize(
    ("files", "key", "texts", "image_field"),
    [
        ({"train.csv": f"filepath\ttitle\n{TITLES}gone.jpg\tgone\n"}, "filepath", ["title"], "filepath"),
        ({"train.csv": f"filepath\ttitle\n{TITLES}1.jpg\ta dog\n"}, "row", ["title"], "filepath"),
        ({"a.csv": f"filepath,id,title\n1.jpg,a,{DOG}\n1.jpg,b,{HUND}\n"}, "id", ["title"], "filepath"),
        ({"metadata.csv": f"file_name\ttext\n{TITLES}"}, "file_name", ["text"], "file_name"),
        (table(path=["2.jpg", "1.jpg"], caption=[DOG, HUND], n=[1, 2]), "path", ["caption"], "path"),
        ({"train.csv": f"url\tfilepath\ttitle\na\tgone.jpg\t{DOG}\n"}, "url", ["title"], None),
        ({"shop.csv": f"image,sku,title\n1.jpg,a,{DOG}\n2.jpg,b,{HUND}\n"}, "sku", ["title"], "image"),
        ({"shop.csv": f"image,productId,title\n1.jpg,a,{DOG}\n1.jpg,b,{HUND}\n"}, "productId", ["title"], "image"),
        ({"shop.csv": f"image,shop_id,title\n1.jpg,a,{DOG}\n2.jpg,a,{HUND}\n"}, "image", ["title"], "image"),
        ({"shop.csv": f"image,shop_id,title\n1.jpg,a,{DOG}\n2.jpg,,{HUND}\n"}, "image", ["title"], "image"),
    ],
)
def test_a_column_of_paths_is_found_where_it_names_pictures_that_are_there(tmp_path, files, key, texts, image_field):
    """Paths are the keys, unless rows share a picture or a column of ids tells all rows apart."""
    folder = write_files(tmp_path / "pool", {"1.jpg": IMAGES[0], "2.jpg": IMAGES[1]} | files)
    drafted = init(str(folder), out=tmp_path / "r.toml")
    config = load_recipe(tmp_path / "r.toml").pool
    assert (config.key, list(config.texts), config.image_field) == (key, texts, image_field)
    assert drafted["has_images"] == (image_field is not None)
    assert kept_texts(folder)[:1] == [DOG]


def test_fields_that_usually_filter_are_suggested_and_run_as_they_are(tmp_path):
    folder = write_files(tmp_path / "pool", POOLS["LAION-5B"][0])
    recipe = tmp_path / "r.toml"
    init(str(folder), out=recipe)
    recipe.write_text(recipe.read_text().replace("# where = ", "where = "))
    config = load_recipe(recipe).pool
    assert config.where
    (shard,) = pool.list_shards(config)
    assert texts_of(shard, config).text.to_pylist() == [DOG]


def shop(number: int) -> dict[str, list[Any]]:
    """Columns of a shop's table."""
    return {
        "uid": [f"{i:04}" for i in range(number)],
        "caption": [f"{DOG} {i}" for i in range(number)],
        "Produktname": [f"das schöne Kleid {i}" for i in range(number)],
        "link": [f"https://a.example/{i}" for i in range(number)],
        "category": ["running shoes", "hats and scarves"] * (number // 2),
        "price": [i / 4 for i in range(number)],
        "in_stock": [True, False] * (number // 2),
        "notes": [None] * number,
    }


def test_further_texts_and_columns_worth_a_condition_are_named_and_run_uncommented(tmp_path):
    folder = pool_of(tmp_path, **shop(40))
    recipe = tmp_path / "r.toml"
    drafted = init(folder, out=recipe)
    assert drafted["other_texts"] == ["Produktname"]
    assert drafted["where_columns"] == {
        "category": '"running shoes", "hats and scarves"', "price": "0 to 9.75", "in_stock": "true, false",
    }  # fmt: skip
    one_line = recipe.read_text().replace("\n# ", " ")
    assert (
        'rows: "category" ("running shoes", "hats and scarves"); "price" (0 to 9.75); "in_stock" (true, false)'
        in one_line
    )
    text = recipe.read_text().replace('texts = ["caption"]\n# texts', "texts").replace("# where = ", "where = ")
    recipe.write_text(text)
    config = load_recipe(recipe).pool
    assert config.texts == ("caption", "Produktname")
    assert config.where == (("category", "=", "hats and scarves"),)
    (shard,) = pool.list_shards(config)
    assert len(texts_of(shard, config).text) == 2 * 20


def test_csv_has_no_numbers_to_compare_and_few_rows_no_few_values(tmp_path):
    lines = [",".join(map(str, row)) for row in zip(*shop(40).values(), strict=True)]
    folder = write_files(tmp_path / "a", {"0.csv": "\n".join([",".join(shop(40)), *lines])})
    assert draft(str(folder))["other_texts"] == ["Produktname"]
    assert draft(str(folder))["where_columns"] == {
        "category": '"running shoes", "hats and scarves"',
        "in_stock": '"True", "False"',
    }
    assert draft(pool_of(tmp_path / "b", **shop(4)))["where_columns"].keys() == {"price"}


def test_limits_of_csv_are_said_before_work_goes_into_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(draft_recipe, "LARGE_FILE", 100)
    rows = [f"s{i},{DOG},{i}.50,{'true' if i % 2 else ''}" for i in range(4)]
    write_files(tmp_path / "a", {"shop.csv": "\n".join(["sku,title,price,sold", *rows])})
    assert main(["init", "a"]) == 0
    said, error = capsys.readouterr()
    assert "numbers as texts: price; pool.where" in said
    assert "shop.csv: CSV and TSV are read whole into memory" in error
    pool_of(tmp_path / "b", sku=["a"], title=[DOG], price=["1"])
    assert main(["init", "b"]) == 0
    said, error = capsys.readouterr()
    assert "numbers as texts" not in said
    assert error == ""


def test_a_shard_with_another_type_of_texts_is_named_and_the_others_are_read(tmp_path, capfd):
    write_table(tmp_path / "a/0.parquet", {"uid": ["a"], "text": [DOG]})
    write_table(tmp_path / "a/1.parquet", {"uid": ["b"], "text": [1]})
    assert draft(str(tmp_path / "a"))["num_texts"] == 1
    assert "init  warning: 1.parquet: column text is int64; it must hold texts" in capfd.readouterr().err


def test_tables_next_to_tars_are_named_unless_they_are_those_of_the_tars(tmp_path, capfd):
    for name, table in (("a", "0.parquet"), ("b", "more.parquet")):
        write_tar(tmp_path / name / "0.tar", [("1.jpg", b"image"), ("1.txt", DOG.encode())])
        write_table(tmp_path / name / table, {"uid": ["a"], "text": [DOG]})
        assert draft(str(tmp_path / name))["format"] == "tar"
    said = capfd.readouterr().err
    assert f"{tmp_path}/a: left out: .parquet files\n" in said
    assert f"{tmp_path}/b: left out: 1 file such as more.parquet, since all shards of a folder have one format" in said
    assert "name both folders in [[pool.place]]" in said


def test_fields_of_json_lines_are_described_and_a_usual_filter_of_another_type_is_not_suggested(tmp_path):
    rows = [
        {"id": i, "text": DOG, "alts": [f"{HUND} {i}", f"Hund {i}"], "nsfw": i % 2 == 0, "meta": {"w": i}}
        for i in range(40)
    ]
    lines = [*map(json.dumps, rows[:9]), "no JSON", *map(json.dumps, rows[9:])]
    folder = write_files(tmp_path / "pool", {"0.jsonl": "\n".join(lines)})
    drafted = draft(str(folder))
    assert (drafted["other_texts"], drafted["where_columns"]) == (["alts"], {"nsfw": "true, false"})
    assert '"UNLIKELY"' not in drafted["recipe"]
    assert '# where = [["nsfw", "=", false]] # only' in drafted["recipe"]


def test_values_and_names_of_columns_cannot_break_the_recipe(tmp_path):
    values = ["a\n[train]\nlr = 9", "b\x7f\u2028\x85", 'c"\\', "d"]
    name = "x\x7f\n[train]\nlr = 9"
    columns = {"uid": list(map(str, range(40))), "text": [DOG] * 40, name: values * 10, "long": ["z" * 500] * 40}
    init(pool_of(tmp_path, **columns), out=tmp_path / "r.toml")
    text = (tmp_path / "r.toml").read_text()
    assert text.startswith("# Drafted from 40 texts of 1 parquet shard.")
    assert load_recipe(tmp_path / "r.toml").train.lr != 9
    (tmp_path / "r.toml").write_text(text.replace("# where = ", "where = "))
    assert load_recipe(tmp_path / "r.toml").pool.where == ((name, "=", values[0]),)


def test_flags_name_what_the_columns_do_not_tell(tmp_path, capsys):
    folder = write_files(tmp_path / "pool", {"0.tsv": f"1\tde\t{HUND}\n2\ten\t{DOG}\n"})
    assert main(["init", str(folder), "--out", str(tmp_path / "r.toml")]) == 2
    assert "give --texts" in capsys.readouterr().err
    flags = ["--columns", "n,lang,said", "--key", "n", "--texts", "said", "--lang", "lang"]
    assert main(["init", str(folder), "--out", str(tmp_path / "r.toml"), *flags]) == 0
    config = load_recipe(tmp_path / "r.toml").pool
    assert (config.columns, config.key, config.texts, config.lang) == (("n", "lang", "said"), "n", ("said",), "lang")
    assert kept_texts(folder) == [HUND, DOG]
    assert load_recipe(tmp_path / "r.toml").languages.codes == ("de", "en")
