"""Commands that kill_points.py kills: the page for browsers, drawn pools, a pool of the hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kill_points import Scenario
from kill_toy import QUIET, Call, nothing, toy


def web(inputs: Path) -> list[Scenario]:
    """Return the page for browsers; files in place of transformers.js, which is copied like any other."""
    from embedded_world import write_world
    from worldclip.export import ExportConfig, export_model
    from worldclip.plugins.browser import web_folder
    from worldclip.tools.embed import embed

    world = inputs / "web"
    write_world(world)
    embed(world / "model", world / "pool", world / "embedded", of=("images",), device="cpu", executor=QUIET)
    library = world / "js"
    library.mkdir()
    for name in web_folder.LIBRARIES:
        (library / name).write_text("// not the library")
    web_folder.library_folder = lambda: library

    def export(folder: Path) -> None:
        config = ExportConfig(formats=("web",), onnx_precisions=("fp32",), embedded=str(world / "embedded"))
        export_model(world / "model", folder / "out", config)

    return [Scenario(name="export to web", start=nothing, call=export, is_light=False)]


# --- pools from elsewhere ---------------------------------------------------------------------------------------------


def drawings(inputs: Path) -> list[Scenario]:
    """Return the pools that are drawn, of a few emoji and flags."""
    from world_parts import write_json
    from worldclip.plugins.drawings import openmoji_files
    from worldclip.plugins.emoji import build as emoji
    from worldclip.plugins.world import build as world
    from worldclip.plugins.world import openmoji
    from worldclip.plugins.world.parts import char_of, flag_of

    tones = ("", "-1F3FB", "-1F3FC", "-1F3FD", "-1F3FE", "-1F3FF")
    hands = [f"{hand}{tone}" for hand in ("1F44B", "1F44D", "1F44F", "1F64F") for tone in tones]
    flags = [flag_of(code) for code in ("FR", "DE", "JP", "KE", "BR", "IN", "TR", "GE")]
    files = openmoji_files()
    few = {key: files[key] for key in [*hands, *flags, "1F34E", "1F436", "1F30D"] if key in files}
    emoji.openmoji_files = openmoji.openmoji_files = lambda: few
    write_json(inputs / "cldr", "fr", {char_of("1F34E"): ("pomme rouge", ["pomme"])})

    def draw(folder: Path) -> None:
        emoji.build_emoji(folder / "pool", 16, 10, executor=QUIET)

    def draw_world(parts: dict[str, Path]) -> Call:
        return lambda folder: world.build_world(
            folder / "pool", parts, image_px=16, samples_per_shard=10, executor=QUIET
        )

    names = draw_world({"cldr": inputs / "cldr"})
    return [
        Scenario(name="pool emoji", start=nothing, call=draw, is_light=False),
        Scenario(name="pool world", start=nothing, call=names, is_light=False),
        Scenario(name="pool world with other parts", start=draw_world({}), call=names, is_light=False),
    ]


SERVED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fake_hub import serve_hub
root = Path(sys.argv[2])
with serve_hub() as hub:
    hub.commit("o/n", {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    print(hub.url, flush=True)
    sys.stdin.read()
"""


def hub(inputs: Path) -> list[Scenario]:
    """Return the curation of a dataset of the hub, which another process stands for."""
    import fsspec

    import worldclip

    recipe = toy(inputs / "hub")
    command = [sys.executable, "-c", SERVED, str(Path(__file__).parent), str(inputs / "hub" / "pool")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # ends with our pipe
    assert server.stdout is not None
    fsspec.config.conf["hf"] = {"endpoint": server.stdout.readline().strip(), "token": "hf_of_the_test"}
    text = recipe.read_text().replace(str(inputs / "hub" / "pool"), "hf://datasets/o/n")
    assert "hf://" in text
    recipe.write_text(text)

    def run(folder: Path) -> None:
        worldclip.run(recipe, out=folder / "run", until="curate", executor=QUIET)

    return [Scenario(name="run of a pool of the hub", start=nothing, call=run, is_light=False)]
