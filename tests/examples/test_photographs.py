"""The claims on photographs: their tables find what the hits hold, and their runs leave such hits."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import worldclip
from embedded_world import picture
from miniature import write_files
from pages import REPOSITORY

LANGS = ["en", *(f"l{number}" for number in range(20))]
CLASSES, PHOTOS = 200, 50


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "examples" / "photographs")
    monkeypatch.syspath_prepend(REPOSITORY / "examples" / "ablation")
    import claims_table

    return claims_table


def write_hits(folder, arm, seed, accuracy, withheld=0.0):
    """Write the file of a run that finds a share of the names of each class, and another of those that are withheld."""
    generator = np.random.default_rng([seed, *arm.encode()])
    is_withheld = np.zeros((len(LANGS), CLASSES), bool)
    if arm.startswith(("worldwide", "english")):
        is_withheld[1:, :40] = True
    share = np.where(is_withheld, withheld, accuracy).repeat(PHOTOS, axis=1)
    record = {"arm": arm, "seed": seed, "samples": 300_032, "pairs": 1000, "english_share": 0.5, "noise_share": 0.0}
    np.savez(
        folder / f"{arm}_s{seed}.npz",
        record=np.array(json.dumps(record | {"cpu_s": 300, "revision": "0" * 40})),
        langs=np.array(LANGS),
        classes=np.array([f"c{number}" for number in range(CLASSES)]),
        class_of_image=np.arange(CLASSES).repeat(PHOTOS),
        hits=np.packbits(generator.random(share.shape) < share, axis=1),
        is_named=np.ones((len(LANGS), CLASSES), bool),
        is_withheld=is_withheld,
        is_alike=np.zeros((len(LANGS), CLASSES), bool),
        number=np.full(CLASSES, 500) - np.arange(CLASSES),
    )


def test_the_tables_find_planted_differences_and_wait_for_the_last_run(tables, tmp_path):
    accuracies = {"raw": 0.10, "own_t": 0.15, "one_t": 0.15, "every_match": 0.15}
    accuracies |= {"english_w64": 0.2, "english_w128": 0.2, "worldwide_w64": 0.2, "worldwide_w128": 0.3}
    for arm, accuracy in accuracies.items():
        for seed in (1, 2, 3):
            assert "runs are missing" in tables.tables(tmp_path)
            write_hits(tmp_path, arm, seed, accuracy, withheld=0.05)
    text = tables.tables(tmp_path)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    verdicts = {(row[0], row[2]): row[-1] for row in rows if len(row) == 8}
    assert verdicts["a", "English"] == "difference"
    assert verdicts["c", "others"] == "no difference"
    values = {row[1]: float(row[3].rstrip("%")) for row in rows if row[0] == "b"}
    assert values["worldwide_w128 against english_w128"] == pytest.approx(50, abs=8)
    assert values["worldwide_w64 against english_w64"] == pytest.approx(0, abs=8)
    times_chance = {row[1]: float(row[4]) for row in rows if row[0] == "worldwide_w128" and len(row) == 6}
    assert times_chance["spelt so in no other language"] == pytest.approx(10, abs=1)
    assert times_chance["names that captions say, of the same 20 languages"] == pytest.approx(60, abs=2)


@pytest.fixture(scope="module")
def small_claims(tmp_path_factory):
    """A folder with the eight runs of seed 1 on 48 classes of noise, two steps each, and their hits."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "examples" / "photographs")
        import claims

        names = ["class,lang,name"]
        for number in range(48):
            for lang in ("en", "de", "fr", "it"):
                names.append(f"c{number},{lang},{lang}thing{number}")
                if lang == "de" and number == 0:
                    names[-1] = "c0,de,enthing0"
        write_files(folder, {"names.csv": "\n".join(names), "templates.json": '{"en": ["a {}"]}'})
        for split in ("train", "val"):
            for number in range(48):
                for copy in range(6):
                    path = folder / split / f"c{number}" / f"{copy}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(picture(number * 10 + copy))
        patch.setattr(claims, "STEPS", 2)
        patch.setattr(claims, "MIN_NAMED", 1)
        paths = [str(folder / name) for name in ("train", "names.csv")]
        options = ["--test", str(folder / "val"), "--templates", str(folder / "templates.json"), "--seeds", "1"]
        folders = ["--work", str(folder / "work"), "--out", str(folder / "hits")]
        patch.setattr(sys, "argv", ["claims.py", *paths, *options, *folders])
        claims.main()
        yield folder


@pytest.mark.slow
def test_runs_leave_hits_that_the_tables_read(tables, small_claims):
    import claims

    runs = {path.stem: tables.read_run(path) for path in sorted((small_claims / "hits").glob("*.npz"))}
    assert sorted(runs) == sorted(f"{arm}_s1" for arm in claims.ARMS)
    assert {run.record["samples"] for name, run in runs.items() if not name.startswith("english")} == {512}
    assert 0.15 < runs["raw_s1"].record["noise_share"] < 0.35
    assert runs["own_t_s1"].record["noise_share"] == 0
    assert runs["english_w64_s1"].record["english_share"] == 1
    flat = runs["worldwide_w64_s1"]
    assert flat.is_withheld_LC.sum(axis=1).tolist() == [0, 40, 40]  # English, and every second of the others
    assert runs["own_t_s1"].is_withheld_LC.sum() == 0


@pytest.mark.slow
def test_the_encoder_of_a_run_learns_the_classes_themselves(tables, small_claims, monkeypatch):
    import supervised

    run, out = small_claims / "work/seed_1/raw", small_claims / "supervised.json"
    train = small_claims / "train"
    monkeypatch.setattr(sys, "argv", ["supervised.py", str(run), str(train), str(train), "--out", str(out)])
    supervised.main()
    first = json.loads(out.read_text())
    assert first["samples"] == 512
    assert len(first["right"]) == 48 * 6
    supervised.main()
    assert json.loads(out.read_text())["right"] == first["right"]


@pytest.mark.slow
def test_open_clip_trains_on_the_pairs_that_a_run_kept(tables, small_claims, monkeypatch):
    pytest.importorskip("open_clip_train", reason="open-clip-torch[training] is not installed")
    import open_clip_peer

    from worldclip import curate
    from worldclip.export.config import ExportConfig
    from worldclip.export.stage import export_model

    run, out = small_claims / "work/seed_1/raw", small_claims / "open_clip"
    export_model(run, run / "export", ExportConfig(formats=("open_clip",)))
    monkeypatch.setattr(sys, "argv", ["open_clip_peer.py", str(run), str(out)])
    open_clip_peer.main()
    before, after = (worldclip.load(path) for path in (run / "export/open_clip", out / "model"))
    images = [small_claims / "val/c0/0.png"]
    assert np.abs(before.encode_image(images) - after.encode_image(images)).max() > 1e-3
    with open(out / "pairs.csv", encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    kept = set()
    for path in (run / "curate").glob("*.parquet"):
        for pair in curate.read_curated(run, path.stem, ["key", "text"]).to_pylist():
            kept.add((pair["key"], pair["text"]))
    assert len(pairs) == 512
    assert {(Path(pair["image"]).stem, pair["text"]) for pair in pairs} <= kept


def test_what_models_answered_is_kept_and_shown(tables, tmp_path):
    import models

    evaluated = tmp_path / "evaluate"
    (evaluated / "ranks").mkdir(parents=True)
    of_model = {"dataset": "photos", "task": "zeroshot_classification", "model_digest": "m"}
    records = [of_model | {"task": "image_text_retrieval", "lang": "en", "digest": "also"}]
    for lang, images, ranks in (("en", [0, 1, 2, 3, 4], [0, 0, 1, 0, 3]), ("de", [1, 2, 3], [0, 2, 2])):
        records.append(of_model | {"lang": lang, "digest": lang})
        np.save(models.ranks_path(evaluated, records[-1], "acc"), ranks)
        np.save(models.images_path(evaluated, records[-1], "acc"), images)
    records.append(of_model | {"lang": "en", "digest": "of another model", "model_digest": "n"})
    (evaluated / "results.jsonl").write_text("\n".join(map(json.dumps, records)))
    (evaluated / "report.json").write_text('{"records": ["also", "en", "de"]}')
    (tmp_path / "supervised.json").write_text('{"right": [true, false, true, true]}')
    kept = tmp_path / "kept"
    models.keep(evaluated, "Small, long", 1000, kept)
    models.keep(tmp_path / "supervised.json", "A supervised one", 500, kept)
    assert sorted(path.name for path in kept.iterdir()) == ["a_supervised_one.npz", "small_long.npz"]
    rows = [line.strip("| ").split(" | ") for line in models.table(kept).splitlines()[2:]]
    assert rows[0][:3] == ["A supervised one", "500", "75.0% (25.0 to 100.0)"]
    assert rows[1][:2] + rows[1][3:5] == ["Small, long", "1,000", "46.7% of 2", "2"]
    assert rows[1][2].startswith("60.0%")
