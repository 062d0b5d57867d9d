"""Values that every process of a run must have besides its arguments, such as the languages that its recipe adds.

The main process sets them.  ShardWork takes them to the processes of this machine, and to Ray's nodes.  They are small
and can be pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_values: dict[str, Any] = {}


def set_value(name: str, value: Any) -> None:
    """Set a value in this process, and in those that work for it from now on."""
    _values[name] = value


def get_value(name: str, default: Any) -> Any:
    """Return a value of this process."""
    return _values.get(name, default)


def all_values() -> dict[str, Any]:
    """Return a copy of all values, for another process."""
    return dict(_values)


def replace_values(values: Mapping[str, Any]) -> None:
    """Make the values of another process those of this one."""
    _values.clear()
    _values.update(values)
