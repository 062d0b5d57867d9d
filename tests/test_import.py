"""`import worldclip` is light; tests/cli/test_without_extras.py runs curation where no extra is installed."""

from __future__ import annotations

from programs import python

HEAVY = ("torch", "ray", "transformers", "torchvision", "tokenizers")

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is blocked in this test")
sys.meta_path.insert(0, Block())
"""


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
    loaded, error, *results = python("-c", BLOCK + code).splitlines()
    assert not {*HEAVY, "numpy", "numba", "pyarrow", "matplotlib", "argparse"} & set(loaded.split())
    assert "no attribute 'nothing'" in error
    assert " ".join(results).split() == ["[0]", "zh", "0.1"]
