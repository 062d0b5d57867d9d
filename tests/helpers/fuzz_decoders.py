"""Feed damaged files to one decoder in child processes, and name those that ended the process.

    python tests/helpers/fuzz_decoders.py simplejpeg JPEG 2000000

Files are numbered; each number gives the same file on every machine.  The child writes the number of a file before it
decodes it, so that a crash names its file.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, features

from damaged_images import damage_inside, encode, oriented, png
from worldclip.kernels.jpeg_header import read_size
from worldclip.model import decode as decoding

NUMBER = struct.Struct("<q")  # of the file that the child decodes
PILLOW, SIMPLEJPEG = "pillow", "simplejpeg"
SIZE = (40, 36)  # more than two blocks of 16 x 16 pixels each way, and part of a third


@dataclass(frozen=True)
class Fuzzed:
    """What a decoder made of damaged files."""

    num_files: int
    crashes: dict[int, int]
    """{number of a file: signal that ended the process}."""
    seconds: float


def small(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC).convert(mode)


def sound_files(name: str) -> list[bytes]:
    """Return sound files of a format, each of another kind."""
    if name == "JPEG":
        return [
            encode(small(), "JPEG"),
            encode(small(), "JPEG", progressive=True),
            encode(small(), "JPEG", subsampling=0, restart_marker_blocks=2),
            encode(small("L"), "JPEG", optimize=True),
            encode(small("CMYK"), "JPEG"),
            encode(small(), "JPEG", progressive=True, subsampling=1, quality=99),
            oriented(6),
        ]
    if name == "PNG":
        modes = ("RGB", "RGBA", "P", "L", "LA", "1")
        lines = b"".join(bytes([row % 5]) + bytes(range(6 * 8)) for row in range(8))
        return [*(encode(small(mode), "PNG") for mode in modes), png(8, 8, 16, 2, lines), oriented(6, "PNG")]
    if name == "TIFF":
        kinds = ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        return [encode(small(), "TIFF", compression=kind) for kind in kinds]
    if name == "WEBP":
        return [encode(small(), name), encode(small(), name, lossless=True), encode(small("RGBA"), name)]
    if name == "MPO":
        return [encode(small(), name, save_all=True, append_images=[small("L")])]
    if name == "AVIF" and not features.check("avif"):
        return []
    return [encode(small(), name)]


def damaged_file(files: list[bytes], number: int) -> bytes:
    return damage_inside(files[number % len(files)], random.Random(number))


def decoder_of(library: str) -> Callable[[bytes], object]:
    """Return a function that decodes a file as worldclip does by this library."""
    if library == PILLOW:
        return lambda data: decoding.pixels_of(decoding.open_image(data))

    def decode(data: bytes) -> object:
        size = read_size(np.frombuffer(data, np.uint8))
        return decoding._decode_jpeg(data, size if decoding._is_fit(*size) else decoding.open_image(data).size)

    return decode


# --- the child --------------------------------------------------------------------------------------------------------


def decode_all(library: str, name: str, first: int, end: int, place: Path) -> None:
    """Decode the files `first` to `end`; the number of each stands in the file `place` before it is decoded."""
    decode, files = decoder_of(library), sound_files(name)
    with open(place, "r+b") as file, mmap.mmap(file.fileno(), NUMBER.size) as progress:
        for number in range(first, end):
            NUMBER.pack_into(progress, 0, number)
            try:
                decode(damaged_file(files, number))
            except decoding.BadImage:
                continue
        NUMBER.pack_into(progress, 0, end)


# --- the parent -------------------------------------------------------------------------------------------------------


def fuzz(library: str, name: str, num_files: int, *, first: int = 0, max_crashes: int = 10) -> Fuzzed:
    """Decode damaged files of a format in child processes until `max_crashes` have ended one."""
    start, at, crashes = time.monotonic(), first, {}
    with tempfile.NamedTemporaryFile() as place:
        place.write(NUMBER.pack(first))
        place.flush()
        while at < first + num_files and len(crashes) < max_crashes:
            command = [sys.executable, __file__, library, name, f"{at}", f"{first + num_files}", place.name]
            path = os.pathsep.join([str(Path(decoding.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
            at = NUMBER.unpack(Path(place.name).read_bytes())[0]
            if done.returncode > 0:
                raise RuntimeError(f"{library} {name}, file {at}: {done.stderr.decode(errors='replace')[-2000:]}")
            if done.returncode < 0:
                crashes[at] = -done.returncode
                at += 1
    return Fuzzed(at - first, crashes, time.monotonic() - start)


if __name__ == "__main__":
    if len(sys.argv) == 6:
        decode_all(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        fuzzed = fuzz(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        print(f"{fuzzed.num_files:,} damaged files of {sys.argv[2]} in {fuzzed.seconds:.0f} s")
        for number, number_of_signal in fuzzed.crashes.items():
            print(f"file {number}: {signal.Signals(number_of_signal).name}")
