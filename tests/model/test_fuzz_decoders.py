"""No damaged file ends the process: each decoder gets damaged files in child processes, under the installed version."""

from __future__ import annotations

import pytest

from fuzz_decoders import PILLOW, SIMPLEJPEG, fuzz, sound_files
from worldclip.model import decode as decoding


@pytest.mark.parametrize(
    ("library", "name", "num_files"),
    [
        *((library, name, 300) for library, name in [(SIMPLEJPEG, "JPEG"), (PILLOW, "JPEG"), (PILLOW, "PNG")]),
        pytest.param(SIMPLEJPEG, "JPEG", 200_000, marks=pytest.mark.slow),
        *(pytest.param(PILLOW, name, 50_000, marks=pytest.mark.slow) for name in decoding._formats()),
    ],
)
def test_damaged_files_end_no_process(library: str, name: str, num_files: int) -> None:
    if library == SIMPLEJPEG and decoding._simplejpeg() is None:
        pytest.skip("simplejpeg is not installed")
    if name in ("HEIF", "DIB") or not sound_files(name):
        pytest.skip(f"Pillow writes no {name} here")
    assert fuzz(library, name, num_files).crashes == {}
