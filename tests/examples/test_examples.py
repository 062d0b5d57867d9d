"""The examples and the notebook do what they say."""

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MetaClip2Model

import worldclip
from embedded_world import BAD, PER_SHARD, SHARDS, key_of, picture, text_of, write_embedded_world
from killed import contents
from miniature import write_files
from pages import REPOSITORY, blocks, commands
from plain_recipe import make_recipe, make_shards, run_stages, write_pool
from toy import ToyWorld, draw_shape, write_tar
from worldclip import curate
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import names as of_names
from worldclip.model.clip import create_model, image_processor, model_config
from worldclip.model.config import ModelConfig
from worldclip.model.tokenizer import load_tokenizer, train_tokenizer
from worldclip.train.initial_weights import load_initial_weights

EXAMPLES = REPOSITORY / "examples"
NOTEBOOK = EXAMPLES / "notebook" / "worldclip.ipynb"


def make_run_and_list(
    folder: Path, policy: str, image_of: Callable[[str], bytes] | None = None
) -> tuple[Path, list[str], list[dict[str, Any]]]:
    """Curate FOLDER/pool; return the run, the names of its tars and the rows of its list."""
    shards = {}
    for name, samples in make_shards(seed=6, num_shards=2).items():
        # a repeated or broken record is the pool reader's business, not the example's
        shards[Path(name).name] = [s for s in dict(samples[:-2]).items() if isinstance(s[1], list)]
    write_pool(folder / "pool", shards, image_of=image_of)
    run = folder / "run"
    run_stages(make_recipe(folder / "pool", curate={"text_policy": policy}), run)
    return run, sorted(shards), [row for name in sorted(shards) for row in curate.read_curated(run, name).to_pylist()]


@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_webdataset_pipeline_keeps_the_offline_list(tmp_path, monkeypatch, policy):
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.syspath_prepend(EXAMPLES / "open_clip")
    from curated import curated

    run, names, offline = make_run_and_list(tmp_path, policy)
    urls = [str(tmp_path / "pool" / name) for name in names]
    found = {}
    for epoch in (0, 1):
        stage = curated(run, lambda epoch=epoch: epoch)
        data = webdataset.WebDataset(urls, shardshuffle=False).compose(stage)
        found[epoch] = [(sample["__key__"], sample["txt"].decode(), sample["jpg"]) for sample in data]
    assert found[0] == [(row["key"], row["text"], b"image of " + row["key"].encode()) for row in offline]
    assert found[1] != found[0]


def test_curated_reads_one_caption_and_members_in_folders(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "open_clip")
    from curated import curated

    texts = ["a red house by the sea", "the old house", "the red sea"]
    members = []
    for name, text in zip(("a/1", "a/2", "b/1"), texts, strict=True):
        record = json.dumps({"caption": text}).encode()
        members += [(f"./{name}.jpg", b"image"), (f"./{name}.json", record)]
    write_tar(tmp_path / "pool/0.tar", members)
    run = tmp_path / "run"
    run_stages(make_recipe(tmp_path / "pool", balance={"english_threshold": 1_000_000}), run)
    rows = curate.read_curated(run, "0.tar").to_pylist()
    names = [("./a/1", texts[0]), ("./a/2", texts[1]), ("./b/1", texts[2])]
    samples = [{"__key__": name, "json": json.dumps({"caption": text}).encode()} for name, text in names]
    kept = [(sample["__key__"], sample["txt"].decode()) for sample in curated(run, lambda: 0)(samples)]
    assert kept == [(f"./{row['key']}", row["text"]) for row in rows]
    assert len(kept) == 3


def img2dataset_folder(folder: Path, num_shards: int = 2, per_shard: int = 30) -> None:
    """What img2dataset leaves: numbered samples of .jpg, .json and .txt, Parquet and statistics beside each tar."""
    texts = ["a red house by the sea", "der alte Hund schläft im Garten", "a dog and a cat", "???", "das Haus am Meer"]
    for shard in range(num_shards):
        members, rows = [], []
        for n in range(per_shard):
            stem, text = f"{shard:05}{n:04}", texts[n % len(texts)]
            row = {"key": stem, "caption": text, "url": f"http://e/{stem}.jpg", "status": "success", "uid": f"{n:032x}"}
            rows.append(row)
            record = json.dumps(row).encode()
            members += [(f"{stem}.jpg", b"\xff\xd8 image"), (f"{stem}.json", record), (f"{stem}.txt", text.encode())]
        write_tar(folder / f"{shard:05}.tar", members)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05}.parquet")
        (folder / f"{shard:05}_stats.json").write_text(json.dumps({"count": per_shard, "successes": per_shard}))


def test_three_commands_curate_what_img2dataset_wrote(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wordfreq")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    recipe = tmp_path / "examples/curate_your_pool/curate.toml"
    codes = re.search(r"codes = \[.*?\]", recipe.read_text(), re.DOTALL)[0]
    recipe.write_text(recipe.read_text().replace(codes, 'codes = ["de", "en"]'))  # the others only take time
    img2dataset_folder(tmp_path / "my_images")
    steps = commands("examples/curate_your_pool/README.md")
    assert len(steps) == 3
    told = []
    for step in steps:
        assert main(step) == 0
        told.append(capsys.readouterr())
    assert told[1].out.count("tail_fraction = ") == 4
    report = json.loads((tmp_path / "runs/mine/curate/report.json").read_text())
    assert report["total"]["pairs_in"] == 60
    assert set(report["languages"]) >= {"de", "en"}
    kept = [row for n in range(2) for row in curate.read_curated(tmp_path / "runs/mine", f"{n:05}.tar").to_pylist()]
    assert len(kept) == report["total"]["pairs_out"] > 0
    assert all(re.fullmatch(r"\d{9}", row["key"]) for row in kept)
    assert (tmp_path / "runs/mine/curate/DATA_CARD.md").exists()
    assert main(["inspect", "runs/mine", "--key", kept[0]["key"]]) == 0
    assert "kept" in capsys.readouterr().out


def test_open_clips_own_pipeline_keeps_the_offline_list(tmp_path, monkeypatch):
    """The README's lines as they are, up to the call of main, whose loader is made here."""
    data = pytest.importorskip("open_clip_train.data", reason="open-clip-torch[training] is not installed")
    monkeypatch.setattr(data, "SharedEpoch", data.SharedEpoch)  # put back afterwards
    monkeypatch.setattr(data, "tarfile_to_samples_nothrow", data.tarfile_to_samples_nothrow)
    monkeypatch.syspath_prepend(EXAMPLES / "open_clip")
    keys: list[str] = []

    def image_of(key: str) -> bytes:
        keys.append(key)
        return draw_shape(0, (len(keys) - 1, 90, 90), 0)

    run, names, offline = make_run_and_list(tmp_path, "one", image_of)
    lines = blocks("examples/open_clip/README.md", "python")[1]
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
    pairs = [pair for images, texts in info.dataloader for pair in zip(images, texts, strict=True)]
    found = sorted((keys[int(image)], text) for image, text in pairs)
    assert found == sorted((row["key"], row["text"]) for row in offline)


def test_notebook_is_valid_and_has_no_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 10
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_notebook_runs_on_the_toy_world(toy_world: ToyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.startswith('recipe = "emoji"')
    code[0].source = f"recipe, out, changes = {str(toy_world.recipe)!r}, 'runs/notebook', ['train.device=cpu']\n"
    code[0].source += 'texts = ["a photo of a red circle", "红色"]'
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [
        "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout") for cell in code
    ]
    assert "th" in said[2]
    assert "in" in said[2]
    assert "kept" in said[2]
    assert said[3].count("\n") == 8
    assert "loss" in said[4]
    assert said[5].startswith("a photo of a red circle [(")
    assert sum("image/png" in output.get("data", {}) for output in code[6].outputs) == 10


def test_filter_keeps_similar_pairs_that_a_head_finds_safe(tmp_path, monkeypatch):
    write_embedded_world(tmp_path)
    clip = worldclip.load(tmp_path / "model", device="cpu")
    pairs = [(shard, i) for shard in range(SHARDS) for i in range(PER_SHARD) if i != BAD]
    images_ND = clip.encode_image([picture(100 * shard + i) for shard, i in pairs])
    texts_ND = clip.encode_text([text_of(shard, i) for shard, i in pairs])
    scores = (images_ND * texts_ND).sum(axis=1)
    weights = images_ND[0] - images_ND[5]
    head = np.append(weights, -np.median(images_ND @ weights) - 1e-6)
    is_valid = (scores >= np.median(scores)) & (images_ND @ weights <= np.median(images_ND @ weights))
    np.save(tmp_path / "nsfw.npy", head)
    options = ["--min-score", str(np.median(scores) - 1e-6), "--head", str(tmp_path / "nsfw.npy")]
    out = tmp_path / "valid_keys.parquet"
    monkeypatch.setattr(sys, "argv", ["filter.py", str(tmp_path / "embedded"), str(out), *options])
    runpy.run_path(str(EXAMPLES / "filter" / "filter.py"))
    expected = [key_of(*pair) for pair, valid in zip(pairs, is_valid, strict=True) if valid]
    assert pq.read_table(out)["key"].to_pylist() == expected
    assert 0 < len(expected) < (scores >= np.median(scores)).sum(), "both rules remove pairs"


def test_filter_passes_over_a_shard_without_images(tmp_path, monkeypatch):
    for kind, numbers in (("images", (0,)), ("texts", (0, 1))):
        (tmp_path / "embedded" / kind).mkdir(parents=True)
        for shard in (0, 1):
            keys = [f"k{shard}"] if shard in numbers else []
            place = tmp_path / "embedded" / kind / f"{shard}.tar"
            np.save(f"{place}.npy", np.ones((len(keys), 4), np.float32) / 2)
            pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), f"{place}.parquet")
    segments = {kind: {f"{shard}.tar": f"{shard}.tar" for shard in (0, 1)} for kind in ("images", "texts")}
    write_files(tmp_path, {"embedded/manifest.json": json.dumps({"segments": segments})})
    run_example(monkeypatch, "filter/filter.py", tmp_path / "embedded", tmp_path / "valid.parquet")
    assert pq.read_table(tmp_path / "valid.parquet")["key"].to_pylist() == ["k0"]


def run_example(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name))


@pytest.mark.parametrize("clusters", [1, 4])
def test_semdedup_keeps_one_image_of_each_group_of_near_vectors(tmp_path, monkeypatch, capsys, clusters):
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    vectors_ND = rng.normal(size=(12, 16))[group] + rng.normal(scale=0.02, size=(len(group), 16))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    keys = [f"k{row}" for row in range(len(group))]
    (tmp_path / "embedded/images").mkdir(parents=True)
    for shard, rows in enumerate(np.array_split(np.arange(len(group)), 2)):
        place = tmp_path / f"embedded/images/{shard}.tar"
        np.save(f"{place}.npy", vectors_ND[rows].astype(np.float32))
        pq.write_table(pa.table({"key": [keys[row] for row in rows]}), f"{place}.parquet")
    out = tmp_path / "valid.parquet"
    options = ["--clusters", clusters, "--max-cosine", 0.95]
    with pytest.raises(SystemExit):
        run_example(monkeypatch, "dedup_by_meaning/semdedup.py", tmp_path / "embedded", out, *options)
    assert "embedded is not finished" in capsys.readouterr().err
    write_files(tmp_path, {"embedded/manifest.json": "{}", "empty/manifest.json": "{}"})
    run_example(monkeypatch, "dedup_by_meaning/semdedup.py", tmp_path / "embedded", out, *options)
    kept = [keys.index(key) for key in pq.read_table(out)["key"].to_pylist()]
    assert sorted(group[kept]) == list(range(12))
    with pytest.raises(SystemExit):
        run_example(monkeypatch, "dedup_by_meaning/semdedup.py", tmp_path / "empty", out)
    assert "holds no embedded images" in capsys.readouterr().err


def test_semdedup_compares_images_of_a_small_pool(tmp_path, monkeypatch, capsys):
    vectors_ND = np.random.default_rng(2).normal(size=(300, 16)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    place = tmp_path / "embedded/images/0.tar"
    place.parent.mkdir(parents=True)
    np.save(f"{place}.npy", np.concatenate([vectors_ND, vectors_ND]))
    pq.write_table(pa.table({"key": [f"k{row}" for row in range(600)]}), f"{place}.parquet")
    write_files(tmp_path, {"embedded/manifest.json": "{}"})
    out = tmp_path / "valid.parquet"
    run_example(monkeypatch, "dedup_by_meaning/semdedup.py", tmp_path / "embedded", out)
    kept = [int(key[1:]) % 300 for key in pq.read_table(out)["key"].to_pylist()]
    assert sorted(kept) == list(range(300))
    with pytest.raises(SystemExit):
        run_example(monkeypatch, "dedup_by_meaning/semdedup.py", tmp_path / "embedded", out, "--clusters", 1000)
    assert "--clusters 1000: there are 600 images" in capsys.readouterr().err


def test_a_folder_of_classes_becomes_a_pool_whose_noise_no_entry_matches(tmp_path, monkeypatch):
    names = {"ball": {"en": "ball", "de": "Kugel", "sw": "mpira"}, "star": {"en": "star", "de": "Stern"}}
    rows = [f"{label},{lang},{name}" for label, of_class in names.items() for lang, name in of_class.items()]
    write_files(
        tmp_path, {"names.csv": "\n".join(["class,lang,name", *rows]), "templates.json": '{"en": ["a {}  here"]}'}
    )
    for split in ("train", "val"):
        for number in range(8):
            for label in names:
                path = tmp_path / split / label / "images" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(number))
    script = EXAMPLES / "photographs" / "build.py"
    options = ["--templates", str(tmp_path / "templates.json"), "--test", str(tmp_path / "val"), "--captions", "20"]
    for out in ("pool_a", "pool_b"):
        paths = [str(tmp_path / name) for name in ("train", "names.csv", out)]
        monkeypatch.setattr(sys, "argv", [str(script), *paths, *options])
        runpy.run_path(str(script), run_name="__main__")
    assert contents(tmp_path / "pool_a") == contents(tmp_path / "pool_b")
    truth = pq.read_table(tmp_path / "pool_a/truth.parquet").to_pylist()
    assert len(truth) == 16 * 20
    assert {row["lang"] for row in truth if row["class"] == "star"} == {"en", "de", ""}
    recipe = tmp_path / "recipe.toml"
    text = (REPOSITORY / "recipes" / "photos.toml").read_text().replace("data/photographs", str(tmp_path / "pool_a"))
    recipe.write_text(text)
    run = tmp_path / "run"
    assert main(["run", str(recipe), "--out", str(run), "--until", "curate"]) == 0
    kept = {(row["key"], row["text_idx"]) for row in curate.read_curated(run, "00000.tar").to_pylist()}
    kind_of = {(row["key"], row["text_idx"]): row["kind"] for row in truth}
    assert {kind_of[pair] for pair in kept} == {"name"}
    dataset = of_names.load("photos", tmp_path / "pool_a/test")
    assert dataset.languages == ("en", "de", "sw")
    assert dataset.tasks("de")[0].class_names == [["Kugel"], ["Stern"]]


def test_slurm_evaluates_only_whole_checkpoints(tmp_path):
    for name in ("step_000000008", "step_000000004.corrupt"):
        (tmp_path / "run/train" / name).mkdir(parents=True)
    (tmp_path / "run/train/manifest.json").touch()
    write_files(tmp_path / "run/checkpoints/step_000000008", {"report.json": "of another training, or of other data"})
    stub = tmp_path / "bin/worldclip"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n')
    stub.chmod(0o755)
    calls = tmp_path / "calls"
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "CALLS": str(calls)}
    subprocess.run(["bash", str(EXAMPLES / "slurm/evaluate.sh"), "run"], cwd=tmp_path, env=environment, check=True)
    step = "run/train/step_000000008"
    assert calls.read_text().splitlines() == [
        f"consolidate {step}",
        f"evaluate {step} --out run/checkpoints/step_000000008",
    ]


def test_the_number_of_texts_beyond_the_context_is_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = ["a red circle", "a " * 40, "a " * 31, "a " * 32]
    Path("runs/emoji/curate").mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), "runs/emoji/curate/0.tar.parquet")
    train_tokenizer(texts, vocab_size=300, context_length=32).save(Path("runs/emoji/train/tokenizer"))
    exec(blocks("docs/glossary.md", "python")[0], {})
    assert capsys.readouterr().out == "2 of 4 texts have more than 32 tokens\n"


# --- examples/finetune at toy size: its recipe with a smaller model and fewer samples ---------------------------------

MODEL = {"preset": "tiny", "image_size": 32, "vision_layers": 1, "text_layers": 1, "context_length": 16}


def save_model(folder: Path) -> MetaClip2Model:
    """Write a Hugging Face folder of random weights and return its model."""
    tokenizer = train_tokenizer(
        ["a photo of a red circle", "der Hund und das Haus"] * 20, vocab_size=80, context_length=16
    )
    model = create_model(model_config(ModelConfig(**MODEL), tokenizer), seed=7)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    image_processor(32).save_pretrained(folder)
    return model


@pytest.mark.slow
def test_training_continues_from_a_hugging_face_folder(toy_world, tmp_path, monkeypatch):
    pytest.importorskip("wordfreq")
    monkeypatch.chdir(tmp_path)
    for folder, shard in (("my_images", 0), ("my_images", 1), ("my_test", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(toy_world.pool / f"{shard:05}.tar", tmp_path / folder)
    before = save_model(tmp_path / "weights").state_dict()
    recipe = (EXAMPLES / "finetune" / "finetune.toml").read_text(encoding="utf-8")
    model = "\n".join(f"{key} = {json.dumps(value)}" for key, value in MODEL.items())
    recipe = recipe.replace("facebook/metaclip-2-worldwide-s16", "weights").replace('preset = "vit_s16"', model)
    (tmp_path / "finetune.toml").write_text(recipe, encoding="utf-8")
    smaller = [
        'languages.codes=["en", "ar"]',
        "train.samples_seen=256",
        "train.global_batch_size=32",
        "train.warmup_samples=32",
        "train.evaluate_every_samples=128",
        "train.lr=1e-3",
        "train.device=cpu",
    ]
    flags = [flag for value in smaller for flag in ("--set", value)]
    assert main(["run", "finetune.toml", "--out", "run", "--until", "evaluate", *flags]) == 0
    assert json.loads((tmp_path / "run/train/report.json").read_text())["steps"] == 8
    assert (tmp_path / "run/train/best.json").exists()
    results = [json.loads(line) for line in (tmp_path / "run/evaluate/results.jsonl").read_text().splitlines()]
    assert {record["dataset"] for record in results} == {"mine"}
    newest = sorted((tmp_path / "run/train").glob("step_*"))[-1]
    after = load_file(newest / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("vision_model."))
    assert not torch.equal(after["visual_projection.weight"], before["visual_projection.weight"])
    table = "text_model.embeddings.token_embedding.weight"
    is_trained = ~torch.isclose(after[table], before[table], rtol=1e-3, atol=0).all(1)
    assert 0 < int(is_trained.sum()) < len(is_trained)  # only weight decay moves rows of tokens that no text contains
    decay = (after[table] / before[table])[~is_trained]
    torch.testing.assert_close(decay, decay[0, 0].expand_as(decay), rtol=1e-6, atol=0)


def test_weights_are_averaged_and_load(tmp_path, monkeypatch, capsys):
    start, end = save_model(tmp_path / "start"), save_model(tmp_path / "end")
    with torch.no_grad():
        for weight in end.parameters():
            weight += 1
    end.save_pretrained(tmp_path / "end")
    run_example(monkeypatch, "average_weights/average.py", *(tmp_path / name for name in ("start", "end", "out")), 0.25)
    assert "0.75 of" in capsys.readouterr().out
    for end_of, share, problem in (("none", 0.5, "no model.safetensors in"), ("end", 1.5, "between 0 and 1")):
        with pytest.raises(SystemExit, match=problem):
            run_example(monkeypatch, "average_weights/average.py", tmp_path / "start", tmp_path / end_of, "x", share)
    for name, weight in worldclip.load(tmp_path / "out", device="cpu").model.state_dict().items():
        torch.testing.assert_close(weight, start.state_dict()[name] + 0.25)


def test_an_average_that_fails_leaves_no_weights(tmp_path, monkeypatch):
    for folder, width in (("start", 2), ("end", 3)):
        (tmp_path / folder).mkdir()
        save_file({"weight": torch.ones(width)}, tmp_path / folder / "model.safetensors")
    places = [tmp_path / name for name in ("start", "end", "out")]
    with pytest.raises(SystemExit, match="two architectures"):
        run_example(monkeypatch, "average_weights/average.py", *places, 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["end", "start"]


def test_initial_weights_of_another_architecture_or_tokenizer_are_refused(tmp_path):
    own = save_model(tmp_path / "weights")
    source = str(tmp_path / "weights")
    other = train_tokenizer(["another text of other words"] * 20, vocab_size=80, context_length=16)
    with pytest.raises(UserError, match=r"set train\.tokenizer\.path = '.*weights'"):
        load_initial_weights(own, source, other)
    path = tmp_path / "weights" / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    config["text_config"]["num_attention_heads"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"hidden_act is quick_gelu there, gelu here; .*num_attention_heads is 2 there"):
        load_initial_weights(own, source, load_tokenizer(tmp_path / "weights", 16))
