"""Items are found by name without being imported."""

from __future__ import annotations

import pytest

from programs import python
from worldclip.core.errors import UserError
from worldclip.core.registry import ItemOf, Registry

FORMATS = Registry("pool format", "worldclip.pool_formats")


def test_names_are_in_the_order_of_the_file_and_unknown_ones_refused():
    assert FORMATS.names()[:2] == ("tar", "parquet")
    with pytest.raises(UserError, match=r"'parqet': unknown pool format; did you mean parquet\?"):
        FORMATS.load("parqet")


def test_a_config_value_is_checked_against_the_registry():
    mark = ItemOf(FORMATS, also=("auto",))
    assert mark.violation("auto") is None
    assert mark.violation(("tar", "csv")) is None
    assert mark.violation(("tar", "jsnl")) == '"jsnl": unknown pool format; did you mean jsonl?'
    assert mark.violation(("jsnl",)) == '"jsnl": unknown pool format; did you mean jsonl?'


def test_names_are_read_without_importing_what_they_name():
    code = (
        "import sys; from worldclip.core.registry import Registry; "
        "Registry('pool format', 'worldclip.pool_formats').names(); print('worldclip.pool' in sys.modules)"
    )
    assert python("-c", code).strip() == "False"
