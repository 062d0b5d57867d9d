"""How long `import worldclip` and `worldclip --help` take, beside Python's own start; medians of fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python, nothing imported": [sys.executable, "-c", "pass"],
    "import worldclip": [sys.executable, "-c", "import worldclip"],
    "worldclip --help": [sys.executable, "-m", "worldclip", "--help"],
    "worldclip match --help": [sys.executable, "-m", "worldclip", "match", "--help"],
    "import torch (peer)": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    for name, command in COMMANDS.items():
        times_s = []
        for _ in range(5):
            started_at = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times_s.append(time.perf_counter() - started_at)
        print(f"{name:<26} {statistics.median(times_s):6.3f} s")


if __name__ == "__main__":
    main()
