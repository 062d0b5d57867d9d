"""No damaged file ends the process: each decoder gets damaged files in child processes, under the installed version."""

from __future__ import annotations

from pathlib import Path

import pytest

from damaged_images import png
from fuzz_decoders import fuzz, sound_files
from programs import python
from worldclip.model import decode as decoding
from worldclip.model.decode import PILLOW, TORCHCODEC, TORCHVISION

NATIVE = (TORCHVISION, TORCHCODEC)
TRUSTED = [(library, name) for library in NATIVE for name in decoding._safe_formats(library)]
READABLE = decoding._formats()
KNOWN_CRASHES = decoding.known_crashes()
SOURCES = Path(decoding.__file__).parents[2]


def skip_unless_installed(library: str) -> None:
    if library != PILLOW and getattr(decoding, f"_{library}")() is None:
        pytest.skip(f"{library} is not installed, or not built for this torch")


def test_png_with_a_bad_filter_byte_ends_no_process(tmp_path: Path) -> None:
    """torchvision 0.29.2 decodes it with a segmentation fault."""
    rows = b"\0" + b"a" * 12 + b"\7" + b"b" * 12
    (tmp_path / "bad.png").write_bytes(png(4, 2, 8, 2, rows))
    code = """
import sys
from worldclip.check.hashing import scan_image
from worldclip.model.decode import BadImage, decode
data = open(sys.argv[1], "rb").read()
assert scan_image(data).error
try:
    decode(data)
except BadImage as error:
    print(error.reason)
"""
    assert python("-c", code, tmp_path / "bad.png", PYTHONPATH=str(SOURCES)) == "undecodable_image\n"


@pytest.mark.parametrize(
    ("library", "name", "num_files"),
    [
        *((library, name, 300) for library, name in [*TRUSTED, (PILLOW, "JPEG"), (PILLOW, "PNG")]),
        *(pytest.param(library, name, 200_000, marks=pytest.mark.slow) for library, name in TRUSTED),
        *(pytest.param(PILLOW, name, 50_000, marks=pytest.mark.slow) for name in READABLE),
    ],
)
def test_damaged_files_end_no_process(library: str, name: str, num_files: int) -> None:
    skip_unless_installed(library)
    if name in ("HEIF", "DIB") or not sound_files(name):
        pytest.skip(f"Pillow writes no {name} here")
    assert fuzz(library, name, num_files).crashes == {}


@pytest.mark.slow
@pytest.mark.parametrize("crash", KNOWN_CRASHES, ids=[f"{crash.library}-{crash.format}" for crash in KNOWN_CRASHES])
def test_formats_that_are_switched_off_still_crash(crash: decoding.Crash) -> None:
    """A release that raises an error instead is trusted again: give the row of CRASHES a last version."""
    skip_unless_installed(crash.library)
    assert fuzz(crash.library, crash.format, 1000, max_crashes=1).crashes
