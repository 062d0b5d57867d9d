"""Items are found by name without being imported, from our file and from other people's packages."""

from __future__ import annotations

import sys

import pytest

from plugin_package import installed, write_package
from programs import python
from worldclip.core.errors import UserError
from worldclip.core.registry import ItemOf, Registry

FORMATS = Registry("pool format", "worldclip.pool_formats")
BREAKS = "raise ImportError('no module named nowhere')"


def test_names_are_ours_in_the_order_of_the_file_then_those_of_other_packages(tmp_path, monkeypatch) -> None:
    ours = FORMATS.names()
    assert ours[:2] == ("tar", "parquet")
    package = write_package(tmp_path, "theirs", BREAKS, {FORMATS.group: "zzz = theirs:A\nlmdb = theirs:B"})
    with installed(monkeypatch, package):
        assert FORMATS.names() == (*ours, "lmdb", "zzz")  # the module was not imported
    assert FORMATS.names() == ours


def test_an_item_is_an_object_or_a_whole_module(tmp_path, monkeypatch) -> None:
    package = write_package(
        tmp_path, "simple_item", "ITEM = 7", {"worldclip.test": "one = simple_item:ITEM\nall = simple_item"}
    )
    with installed(monkeypatch, package):
        registry = Registry("thing", "worldclip.test")
        assert registry.load("one") == 7
        assert registry.load("all").ITEM == 7
        assert [name for name, _ in registry.items()] == ["all", "one"]


def test_unknown_broken_and_doubly_registered_items_are_refused_with_a_remedy(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"'parqet': unknown pool format; did you mean parquet\?"):
        FORMATS.load("parqet")
    first = write_package(tmp_path / "a", "first_package", BREAKS, {FORMATS.group: "lmdb = first_package:A"})
    second = write_package(
        tmp_path / "b", "second_package", "A = 1", {FORMATS.group: "lmdb = second_package:A\ntar = second_package:A"}
    )
    with (
        installed(monkeypatch, first),
        pytest.raises(UserError, match=r"first_package cannot be loaded .*nowhere.*uninstall"),
    ):
        FORMATS.load("lmdb")
    with installed(monkeypatch, first, second):
        with pytest.raises(UserError, match="registered by first_package, second_package; uninstall all but one"):
            FORMATS.load("lmdb")
        with pytest.raises(UserError, match="registered by second_package, worldclip"):
            FORMATS.load("tar")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise RuntimeError('no licence file')", "RuntimeError: no licence file"),
        ("import sys; sys.exit('wrong platform')", "SystemExit: wrong platform"),
        ("def", "SyntaxError: "),
    ],
)
def test_failing_import_of_a_package_is_named_and_leaves_the_other_items(
    code: str, error: str, tmp_path, monkeypatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = write_package(tmp_path, "failing_item", code, {FORMATS.group: "lmdb = failing_item:A"})
    with installed(monkeypatch, package):
        with pytest.raises(UserError, match=f"pool format 'lmdb' of the package failing_item .*{error}"):
            FORMATS.load("lmdb")
        assert [name for name, _ in FORMATS.items()] == [name for name in FORMATS.names() if name != "lmdb"]
    assert (
        f"left out: pool format 'lmdb' of the package failing_item cannot be loaded ({error}" in capfd.readouterr().err
    )
    sys.modules.pop("failing_item", None)


def test_a_config_value_is_checked_against_the_registry() -> None:
    mark = ItemOf(FORMATS, also=("auto",))
    assert mark.violation("auto") is None
    assert mark.violation(("tar", "csv")) is None
    assert mark.violation("jsnl") == "unknown pool format; did you mean jsonl?"
    assert mark.violation(("tar", "jsnl")) == '"jsnl": unknown pool format; did you mean jsonl?'
    assert mark.violation(("jsnl",)) == '"jsnl": unknown pool format; did you mean jsonl?'


def test_names_are_read_without_importing_what_they_name() -> None:
    code = (
        "import sys; from worldclip.core.registry import Registry; "
        "Registry('pool format', 'worldclip.pool_formats').names(); print('worldclip.pool' in sys.modules)"
    )
    assert python("-c", code).strip() == "False"
