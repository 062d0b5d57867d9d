"""The pool format and the command of docs/plugins.md, as packages of others."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from miniature import write_files
from pools import rows_of, run_pool, texts_of, write_lines
from worldclip import pool
from worldclip.cli import main
from worldclip.core import registry
from worldclip.core.errors import BadShard, UserError
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import POOL_FORMATS

PAGE = (Path(__file__).parents[2] / "docs/plugins.md").read_text(encoding="utf-8")


def write_package(site: Path, name: str, code: str, entry_points: str) -> None:
    """Write the module `name` and its metadata into `site`, as pip would install them."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    write_files(site, {f"{name}.py": code})
    write_files(site / f"{name}-1.0.dist-info", {"METADATA": metadata, "entry_points.txt": entry_points})


def page_code(file: str) -> str:
    """Return the code that the page shows for a file."""
    return PAGE.split(f"\n`{file}`", 1)[1].split("```python\n", 1)[1].split("\n```", 1)[0] + "\n"


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder on the path; its modules and names are forgotten afterwards."""
    folder, modules = tmp_path / "site", {*sys.modules}
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    registry.points_of_others.cache_clear()
    yield folder
    for name in {*sys.modules} - modules:
        if (folder / f"{name}.py").exists():
            del sys.modules[name]
    registry.points_of_others.cache_clear()
    importlib.invalidate_caches()


def test_shards_of_another_packages_format_are_read_and_a_damaged_one_fails_alone(site, tmp_path):
    write_package(
        site, "arrow_files", page_code("arrow_files.py"), "[worldclip.pool_formats]\narrow = arrow_files:ARROW"
    )
    table = pa.table({"uid": ["a", "b"], "texts": [["a red cat", "eine Katze"], ["x"]]})
    with pa.ipc.new_file(tmp_path / "0.arrow", table.schema) as file:
        file.write_table(table)
    (tmp_path / "1.arrow").write_bytes((tmp_path / "0.arrow").read_bytes()[:-20])
    config = PoolConfig(path=str(tmp_path), key="uid", texts=("texts",))
    whole, damaged = pool.list_shards(config)
    assert texts_of(whole, config).text.to_pylist() == ["a red cat", "eine Katze", "x"]
    with pytest.raises(BadShard):
        texts_of(damaged, config)


def test_command_of_another_package_is_listed_without_its_import_and_runs(site, tmp_path, capsys):
    write_package(
        site, "longest_texts", page_code("longest_texts.py"), "[worldclip.commands]\nlongest = longest_texts:longest"
    )
    assert main(["--help"]) == 0
    assert "List the longest texts of a pool" in capsys.readouterr().out
    assert "longest_texts" not in sys.modules
    write_lines(tmp_path / "pool/a.jsonl", [{"uid": text, "text": text} for text in ("a cat", "a red cat", "dog")])
    call = ["longest", str(tmp_path / "pool"), "--key", "uid"]
    assert main([*call, "--containing", "dog", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"text": "dog", "chars": 3}]
    assert main([*call, "--contain", "a"]) == 2
    assert "unknown flag '--contain'; did you mean --containing?" in capsys.readouterr().err
    assert main(["longestt", "x"]) == 2
    assert "did you mean longest?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no licence file')", "package theirs cannot be loaded (RuntimeError: no licence file)"),
        ("import sys; sys.exit('wrong platform')", "(SystemExit: wrong platform)"),
        ("def", "(SyntaxError: "),
        ("longest = 3", "is no worldclip.core.command.Command"),
    ],
)
def test_a_broken_package_stops_only_its_own_command(code, message, site, capsys):
    items = "[worldclip.commands]\nlongest = theirs:longest\n[worldclip.pool_formats]\ntar = theirs:TAR"
    write_package(site, "theirs", code, items)
    assert main(["--help"]) == main(["languages"]) == 0
    assert main(["longest", "x"]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="'tar' is registered by worldclip and theirs; uninstall one of them"):
        POOL_FORMATS.names()


def test_an_album_of_the_page_is_a_pool_with_images(site, tmp_path):
    write_package(site, "albums", page_code("albums.py"), "[worldclip.pool_formats]\nalbum = albums:ALBUM")
    records = [
        {"file": "a.png", "uid": "1", "captions": ["a red cat", "eine Katze"], "langs": ["en", "de"], "likes": 3},
        {"file": "gone.png", "uid": "2", "captions": "x", "langs": "en", "likes": 4},
        {"file": "a.png", "uid": "1", "captions": "again", "langs": "en", "likes": 5},
        {"file": "a.png", "uid": "3", "captions": "few likes", "langs": "en", "likes": 1},
    ]
    write_files(tmp_path / "pool", {"a.png": "a", "cats.json": json.dumps(records)})
    settings = {"key": "uid", "texts": ["captions"], "lang": "langs", "where": [["likes", ">", 2]]}
    run_pool(tmp_path / "run", path=str(tmp_path / "pool"), **settings)
    texts = pool.read_pairs(tmp_path / "run", "cats.json", pool.EVERY_KEY)
    assert [(key, reason) for key, _, _, reason in rows_of(texts)] == [
        ("1", "kept"),
        ("1", "kept"),
        ("2", "bad_pair"),
        ("1", "duplicate"),
    ]
    assert texts.lang.to_pylist()[:2] == ["en", "de"]
    images = pool.read_images(tmp_path / "run", "cats.json", pool.EVERY_KEY)
    assert images["key"].to_pylist() == ["1"]
    (shard,) = pool.list_shards(PoolConfig(path=str(tmp_path / "pool")))
    assert list(pool.read_contents(pool.image_places(shard, images))) == [b"a"]
