"""Damaged fastText models are refused or give labels: no crash, no hang, no memory that the file does not pay for.

The kernels check no bounds, so a missed check ends the process: each test runs in one of its own.
"""

import random
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fasttext_files import KINDS, LABELS, TEXTS, WORDS, Kind, write_model
from worldclip.core.errors import UserError
from worldclip.language.identify import Identifier

HEAD_BYTES = 92  # magic, version, options, sizes of the dictionary
NUMBERS = [-(2**31), -2, -1, 0, 1, 2, 3, 5, 7, 64, 255, 256, 65_535, 65_536, 10**6, 2**27, 2**30, 2**31 - 1]
MEMORY_BYTES = 4 * 2**30  # address space of a process, numba's compiler included
# What ended the process or hung: name of a field, its offset and numbers.
FOUND = [
    ("version", 4, [0, 9, 10, 13]),
    ("dim", 8, [-1, 0, 5, 7, 2**30]),
    ("wordNgrams", 28, [-1, 2, 2**31 - 1]),
    ("loss", 32, [0, 1, 2, 4, 5]),
    ("model", 36, [1, 2]),
    ("bucket", 40, [-1, 0, 1, 499, 501, 2**31 - 1]),
    ("minn", 44, [-1, 0, 2**31 - 1]),
    ("maxn", 48, [-1, 0, 2**31 - 1]),
    ("size", 64, [-1, 0, 15, 17, 2**31 - 1]),
    ("words", 68, [-1, 0, 8, 10]),
    ("labels", 72, [-1, 0, 1, 8]),
    ("pruned", 84, [-1, 0, 1, 121, 2**31 - 1]),
]


def mutate(whole: bytes, draw: random.Random) -> bytes:
    """Return a model with one to three numbers replaced, mostly of its head, or one byte anywhere, or its end cut."""
    content = bytearray(whole)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        in_head = draw.random() < 0.6
        at = draw.randrange(1, HEAD_BYTES // 4) * 4 if in_head else draw.randrange(len(content) - 8)
        if draw.random() < 0.5:
            content[at] = draw.randrange(256)
        else:
            width = draw.choice("iq")
            struct.pack_into(f"<{width}", content, at, draw.choice(NUMBERS))
    if draw.random() < 0.05:
        del content[draw.randrange(len(content)) :]
    return bytes(content)


def is_used(path: Path, content: bytes) -> bool:
    """Label texts with a model; returns whether it was accepted.  Anything but UserError is raised."""
    path.write_bytes(content)
    try:
        identifier = Identifier(path)
        label_ids, probs = identifier.predict_ids([*TEXTS, "x" * 20_000, "a b " * 5_000])
    except UserError:
        return False
    assert label_ids.min() >= -1
    assert label_ids.max() < len(identifier.labels)
    assert ((probs >= 0) & (probs <= 1) | np.isnan(probs)).all()
    return True


def written(folder: Path, kind: Kind) -> bytes:
    write_model(folder / "whole.bin", kind, WORDS, LABELS)
    return (folder / "whole.bin").read_bytes()


def main(num_inputs: int, seed: int) -> None:
    """Run in a process of its own: the numbers that were found, then random ones."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    draw = random.Random(seed)
    num_used = num_tried = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, kind in KINDS.items():
            whole = written(folder, kind)
            assert is_used(folder / "whole.bin", whole), name
            contents = [
                whole[:at] + struct.pack("<i", number) + whole[at + 4 :]
                for _, at, numbers in FOUND
                for number in numbers
            ]
            contents += [mutate(whole, draw) for _ in range(num_inputs // len(KINDS))]
            for number, content in enumerate(contents):
                num_used += is_used(folder / f"{number % 4}.bin", content)
                num_tried += 1
    print(f"{num_tried} models, {num_used} used")


def run_alone(num_inputs: int, seed: int, timeout_s: float) -> None:
    command = [sys.executable, "-X", "faulthandler", __file__, str(num_inputs), str(seed)]
    path = [str(Path(__file__).parents[1] / "helpers"), *sys.path]
    done = subprocess.run(
        command, timeout=timeout_s, capture_output=True, text=True, env={"PYTHONPATH": ":".join(filter(None, path))}
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"


def test_a_model_with_a_wrong_number_is_refused_or_labels() -> None:
    run_alone(num_inputs=800, seed=0, timeout_s=120)


@pytest.mark.slow
def test_many_models_with_wrong_numbers_are_refused_or_label() -> None:
    run_alone(num_inputs=200_000, seed=1, timeout_s=1_800)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
