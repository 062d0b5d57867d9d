"""See the calls of a function, or let them fail.  set_attribute: monkeypatch.setattr, or setattr without a test."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

SetAttribute = Callable[[Any, str, Any], None]


def before(set_attribute: SetAttribute, owner: Any, name: str, act: Callable[..., object]) -> None:
    """Call `act` with the same arguments before each call of owner.name; an error of it takes the place of the call."""
    call = getattr(owner, name)

    def wrapper(*args: Any, **keys: Any) -> Any:
        act(*args, **keys)
        return call(*args, **keys)

    set_attribute(owner, name, wrapper)


def calls_of(set_attribute: SetAttribute, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """Return a list that gets the positional arguments of each call of owner.name from now on."""
    calls: list[tuple[Any, ...]] = []
    before(set_attribute, owner, name, lambda *args, **_: calls.append(args))
    return calls


def fail_at(set_attribute: SetAttribute, owner: Any, name: str, number: int, error: BaseException) -> None:
    """Let call `number` of owner.name, counted from 1, raise an error."""
    numbers = itertools.count(1)

    def fail(*_: Any, **__: Any) -> None:
        if next(numbers) == number:
            raise error

    before(set_attribute, owner, name, fail)
