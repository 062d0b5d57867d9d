"""Make the pictures of README and docs from what `make demo` wrote; needs Chromium and Pillow.

python docs/pictures.py RUNS OUT
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
from chromium import Page, open_page

QUERIES = ("gato", "red apple")  # a hit and a miss
PANEL_PX, SCALE = 300, 2  # width of a search: README's text stays legible on a telephone
PORT = 8137
WORLDCLIP = (sys.executable, "-m", "worldclip")


@contextlib.contextmanager
def serving(runs: Path) -> Iterator[str]:
    """Embed the demo's held-out drawings, once, serve them, and yield the page's address."""
    run, held = runs / "emoji", runs / "emoji_held_out"
    command = ["embed", run, run / "pool/base", "--of", "images", "texts", "--out", held]
    subprocess.run([*WORLDCLIP, *map(str, command)], check=True)
    server = subprocess.Popen([*WORLDCLIP, "serve", str(run), str(held), "--port", str(PORT)])
    try:
        address = f"http://127.0.0.1:{PORT}"
        while not is_up(address):
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def is_up(address: str) -> bool:
    """Return whether the server answers."""
    try:
        return bool(urllib.request.urlopen(f"{address}/healthz").status == 200)
    except OSError:
        return False


def write_searches(page: Page, address: str, out: Path) -> None:
    """Write the two searches side by side: the field, and the first row of hits."""
    panels = []
    for query in QUERIES:
        resize(page, PANEL_PX, 900, SCALE)
        page.open("about:blank")
        page.open(f"{address}/?q={quote(query)}", "document.querySelectorAll('.hit img').length > 10")
        page.run("document.querySelectorAll('header, .more, .go, .path, #state').forEach((part) => part.remove())")
        page.run(f"queries.replaceChildren(); document.querySelector('#text').value = {query!r}")
        page.wait("[...document.querySelectorAll('.hit img')].slice(0, 2).every((img) => img.naturalWidth)")
        end = page.run(
            "document.querySelector('.hit').getBoundingClientRect().bottom"
        )  # hits of a row are equally high
        resize(page, PANEL_PX, round(end) + 12, SCALE)
        page.screenshot(out)
        panels.append(Image.open(out).convert("RGB"))
    whole = Image.new("RGB", (sum(panel.width for panel in panels), max(panel.height for panel in panels)), "#fbfaf7")
    for number, panel in enumerate(panels):
        whole.paste(panel, (number * panel.width, 0))
    whole.save(out, optimize=True)


def resize(page: Page, width: int, height: int, scale: int = 1) -> None:
    """Set the size of the window."""
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)


def main() -> None:
    """Write search_page.png, report.png and explore.png into OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    runs, out = arguments.runs.resolve(), arguments.out
    with serving(runs) as address, open_page("--hide-scrollbars") as page:
        write_searches(page, address, out / "search_page.png")
        resize(page, 1200, 1100)
        page.open(runs / "emoji/report.html")
        page.screenshot(out / "report.png")
        resize(page, 1200, 860)
        page.open(runs / "emoji_explorer/index.html", "document.querySelector('.curve-place svg')")
        page.run("place.value = 30.5; place.dispatchEvent(new Event('input'))")
        page.run("whatif.scrollIntoView({behavior: 'instant'})")
        page.screenshot(out / "explore.png")
    for name in ("search_page", "report", "explore"):
        picture = Image.open(out / f"{name}.png").convert("RGB").quantize(256)
        picture.save(out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
