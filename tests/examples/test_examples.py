"""The examples do what they say."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plain_recipe import LISTS, make_recipe, make_shards, run_stages, write_metadata, write_pool
from toy import draw_shape, write_tar
from worldclip import curate
from worldclip.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_webdataset_pipeline_keeps_the_offline_list(tmp_path, policy):
    webdataset = pytest.importorskip("webdataset")
    spec = importlib.util.spec_from_file_location("curated", EXAMPLES / "open_clip" / "curated.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    shards = {Path(name).name: samples for name, samples in make_shards(seed=6, num_shards=2).items()}
    # a repeated or broken record is the pool reader's business, not the example's
    shards = {
        name: [s for s in dict(samples[:-2]).items() if isinstance(s[1], list)] for name, samples in shards.items()
    }
    write_pool(tmp_path / "pool", shards)
    run = tmp_path / "run"
    write_metadata(run, LISTS)
    run_stages(make_recipe(tmp_path / "pool", curate={"text_policy": policy}), run)
    offline = [row for name in sorted(shards) for row in curate.read_curated(run, name).to_pylist()]

    urls = [str(tmp_path / "pool" / name) for name in sorted(shards)]
    found = {}
    for epoch in (0, 1):
        stage = example.curated(run, lambda epoch=epoch: epoch)
        data = webdataset.WebDataset(urls, shardshuffle=False).compose(stage)
        found[epoch] = [(sample["__key__"], sample["txt"].decode(), sample["jpg"]) for sample in data]
    assert found[0] == [(row["key"], row["text"], b"image of " + row["key"].encode()) for row in offline]
    assert found[1] != found[0]


def img2dataset_folder(folder: Path, num_shards: int = 2, per_shard: int = 30) -> None:
    """What img2dataset leaves: numbered samples of .jpg, .json and .txt, Parquet and statistics beside each tar."""
    texts = ["a red house by the sea", "der alte Hund schläft im Garten", "a dog and a cat", "???", "das Haus am Meer"]
    for shard in range(num_shards):
        members, rows = [], []
        for n in range(per_shard):
            stem, text = f"{shard:05}{n:04}", f"{texts[n % len(texts)]}"
            row = {"key": stem, "caption": text, "url": f"http://e/{stem}.jpg", "status": "success", "uid": f"{n:032x}"}
            rows.append(row)
            record = json.dumps(row).encode()
            members += [(f"{stem}.jpg", b"\xff\xd8 image"), (f"{stem}.json", record), (f"{stem}.txt", text.encode())]
        write_tar(folder / f"{shard:05}.tar", members)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05}.parquet")
        (folder / f"{shard:05}_stats.json").write_text(json.dumps({"count": per_shard, "successes": per_shard}))


def commands(readme: Path) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines() if line.startswith("worldclip ")]


def test_three_commands_curate_what_img2dataset_wrote(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wordfreq")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    recipe = tmp_path / "examples/curate_your_pool/curate.toml"
    codes = re.search(r"codes = \[.*?\]", recipe.read_text(), re.DOTALL)[0]
    recipe.write_text(recipe.read_text().replace(codes, 'codes = ["de", "en"]'))  # the others only take time
    img2dataset_folder(tmp_path / "my_images")
    steps = commands(EXAMPLES / "curate_your_pool" / "README.md")
    assert len(steps) == 3
    told = []
    for step in steps:
        assert main(step) == 0
        told.append(capsys.readouterr())
    assert told[1].out.count("tail_fraction = ") == 4
    assert (tmp_path / "runs/mine/size.svg").exists()
    report = json.loads((tmp_path / "runs/mine/curate/report.json").read_text())
    assert report["total"]["pairs_in"] == 60
    assert set(report["languages"]) >= {"de", "en"}
    kept = [row for n in range(2) for row in curate.read_curated(tmp_path / "runs/mine", f"{n:05}.tar").to_pylist()]
    assert len(kept) == report["total"]["pairs_out"] > 0
    assert all(re.fullmatch(r"\d{9}", row["key"]) for row in kept)
    assert (tmp_path / "runs/mine/curate/DATA_CARD.md").exists()
    assert "Size against threshold" in (tmp_path / "runs/mine/report.html").read_text()
    assert main(["inspect", "runs/mine", "--key", kept[0]["key"]]) == 0
    assert "kept" in capsys.readouterr().out


def test_open_clips_own_pipeline_keeps_the_offline_list(tmp_path, monkeypatch):
    """The README's lines as they are, up to the call of main, whose loader is made here."""
    data = pytest.importorskip("open_clip_train.data", reason="open-clip-torch[training] is not installed")
    monkeypatch.setattr(data, "SharedEpoch", data.SharedEpoch)  # put back afterwards
    monkeypatch.setattr(data, "tarfile_to_samples_nothrow", data.tarfile_to_samples_nothrow)
    monkeypatch.syspath_prepend(EXAMPLES / "open_clip")
    colours, number = {}, 0
    for shard, samples in make_shards(seed=6, num_shards=2).items():
        members = []
        for key, texts in dict(samples[:-2]).items():
            if isinstance(texts, list):
                colours[number], number = key, number + 1
                record = json.dumps({"texts": texts}).encode()
                members += [(f"{key}.png", draw_shape(0, (number - 1, 90, 90), 0)), (f"{key}.json", record)]
        write_tar(tmp_path / "pool" / Path(shard).name, members)
    run = tmp_path / "run"
    write_metadata(run, LISTS)
    run_stages(make_recipe(tmp_path / "pool", curate={"text_policy": "one"}), run)
    names = sorted(path.name for path in (tmp_path / "pool").glob("*.tar"))
    offline = sorted((row["key"], row["text"]) for name in names for row in curate.read_curated(run, name).to_pylist())

    readme = (EXAMPLES / "open_clip" / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    scope: dict = {}
    exec(lines.replace("runs/mine", str(run)).split("main.main(")[0], scope)
    arguments = argparse.Namespace(
        train_data=f"{tmp_path}/pool/{{{','.join(Path(name).stem for name in names)}}}.tar",
        train_num_samples=len(offline),
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=1,
        workers=0,
        world_size=1,
        seed=0,
    )

    def number_of(image):  # the shape's red channel says which image it is
        return np.asarray(image).reshape(-1, 3)[:, 0].min()

    info = data.get_wds_dataset(arguments, number_of, is_train=True, tokenizer=lambda text: [text])
    found = sorted((colours[int(image)], text) for images, texts in info.dataloader
                   for image, text in zip(images, texts, strict=True))  # fmt: skip
    assert found == offline
