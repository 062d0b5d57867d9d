"""`import worldclip` is light, and curation runs where no extra is installed."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "ray", "transformers", "torchvision", "tokenizers")

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is blocked in this test")
sys.meta_path.insert(0, Block())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where the heavy packages cannot be imported."""
    done = subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_import_pulls_nothing_heavy_and_public_names_resolve_on_first_access() -> None:
    """Not even the core's libraries are loaded: it takes milliseconds (benchmarks/imports.py measures it)."""
    code = """
import worldclip, sys
print(*sys.modules)
try: worldclip.nothing
except AttributeError as error: print(error)
print(worldclip.match.Matcher(["cat"]).match("a cat").tolist(), worldclip.languages.from_lid("yue", scheme="lid176"))
print(worldclip.balance.tail_fraction([1, 3, 6, 90], 10))
"""
    loaded, error, *results = python(code).stdout.splitlines()
    assert not {*HEAVY, "numpy", "numba", "pyarrow", "matplotlib", "argparse"} & set(loaded.split())
    assert "no attribute 'nothing'" in error
    assert " ".join(results).split() == ["[0]", "zh", "0.1"]


def test_curation_runs_without_torch(toy_world, tmp_path) -> None:
    code = f"import worldclip; worldclip.run({str(toy_world.recipe)!r}, out={str(tmp_path / 'run')!r}, until='curate')"
    python(f"if __name__ == '__main__':\n    {code}")
    assert (tmp_path / "run" / "curate" / "manifest.json").exists()


def test_training_without_torch_says_which_extra_brings_it(toy_world, tmp_path) -> None:
    code = (
        f"from worldclip.cli import main; print(main(['run', {str(toy_world.recipe)!r}, '--out', {str(tmp_path)!r}]))"
    )
    done = python(f"if __name__ == '__main__':\n    {code}")
    assert done.stdout.split()[-1] == "2", done.stderr
    assert "worldclip[train]" in done.stderr
