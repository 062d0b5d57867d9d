"""An explorer of the toy world, with captions, keys and entries that look like markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import worldclip
from toy import build_toy_world, draw_shape, write_tar
from worldclip.plugins.explorer.explore import explore

PLANTED = [
    "a photo of <script>window.planted = 1</script> red",
    'a photo of <img src=x onerror="window.planted = 2"> green',
    "a photo of [blue](javascript:window.planted=3) javascript:alert(1)",
    "a photo of <b>bold</b> __proto__ \u2028 ]]> --> </script> star",
]
ENTRIES = ["<b>bold</b>", "javascript", "__proto__", "constructor", "photo"]


class Explored(NamedTuple):
    """A run and the folder of its explorer."""

    run: Path
    folder: Path


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """Made once for all tests; do not change it."""
    folder = tmp_path_factory.mktemp("explored")
    world = build_toy_world(folder / "world")
    with (folder / "world/lists/en.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join(ENTRIES) + "\n")
    picture = draw_shape(0, np.array([9, 9, 9], np.uint8), 0)
    members = []
    for n, text in enumerate(PLANTED):
        members.append((f"<i>{n}.png", picture if n else b"this is no picture"))
        members.append((f"<i>{n}.json", json.dumps({"texts": [text], "lang_truth": ["en"]}).encode()))
    frequent = [json.dumps({"texts": [f"one photo, number {n}"]}) for n in range(20)]
    members += [(f"plain{n}.json", record.encode()) for n, record in enumerate(frequent)]
    members.append(("broken.png", picture))
    members.append(("broken.json", b'{"texts": ["a photo of \xff\xfe red"]}'))
    write_tar(world.pool / "00003.tar", members)
    run = worldclip.run(str(world.recipe), out=folder / "run", until="curate")
    explore(run, folder / "explorer")
    return Explored(Path(run), folder / "explorer")
