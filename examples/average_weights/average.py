"""Average the weights of a model before and after fine-tuning (WiSE-FT, arXiv:2109.01903): it forgets less.

    python examples/average_weights/average.py START END OUT 0.5

START, END: folders with model.safetensors, of one architecture.  OUT: a new folder.  0.5: the share of END.
"""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

start, end, out = map(Path, sys.argv[1:4])
share = float(sys.argv[4])
if not 0 <= share <= 1:
    sys.exit(f"{share}: the share of END must be between 0 and 1")
if missing := [str(folder) for folder in (start, end) if not (folder / "model.safetensors").is_file()]:
    sys.exit(f"no model.safetensors in {' and '.join(missing)}: give the folder of a model, such as RUN/train/step_...")
if out.exists():
    sys.exit(f"{out} exists; give a new folder")
aside = out.with_name(f".{out.name}.tmp")  # OUT is whole or not there
shutil.rmtree(aside, ignore_errors=True)
shutil.copytree(end, aside, ignore=shutil.ignore_patterns("trainer", "adapters", "*.safetensors"))
for path in end.glob("*.safetensors"):
    before, after = load_file(start / path.name), load_file(path)
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (before, after)]
    if shapes[0] != shapes[1]:
        shutil.rmtree(aside)
        sys.exit(f"{start} and {end} are models of two architectures")
    average = {name: before[name].lerp(weight, share) for name, weight in after.items()}
    save_file(average, aside / path.name, {"format": "pt"})
aside.rename(out)
print(f"{out}: {1 - share:g} of {start} and {share:g} of {end}")
