"""A sweep shared by two processes is the same sweep: features, records, and a call that goes on."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time

import pytest

from toy import draw_shape, write_tar
from worldclip.contracts.records import read_results
from worldclip.core.errors import StageFailed, UserError
from worldclip.evaluate import processes
from worldclip.evaluate import stage as evaluate
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.image_features import CHUNK_IMAGES

RED, BLUE = (220, 30, 30), (40, 60, 220)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny random model of ours, saved as a Hugging Face folder."""
    pytest.importorskip("torch")
    from worldclip.model.clip import create_model, image_processor, model_config
    from worldclip.model.config import ModelConfig
    from worldclip.model.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("model")
    config = ModelConfig(preset="tiny", image_size=32)
    tokenizer = train_tokenizer(["red circle", "blue square", "roter Kreis"] * 20, vocab_size=200, context_length=16)
    create_model(model_config(config, tokenizer), seed=0).save_pretrained(folder)
    tokenizer.hf.save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Twelve drawn shapes of two classes in CLIP_benchmark's layout, with names in three languages."""
    import numpy as np

    folder = tmp_path_factory.mktemp("shapes")
    (folder / "classnames.txt").write_text("red circle\nblue square\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    names = {"de": {"classes": ["roter Kreis", "blaues Quadrat"]}, "fr": {"classes": ["cercle rouge", "carré bleu"]}}
    (folder / "languages.json").write_text(json.dumps(names))
    members = []
    for i in range(12):
        rgb = np.array(RED if i % 2 == 0 else BLUE, np.uint8)
        members += [(f"{i:02}.png", draw_shape(i % 2, rgb, i)), (f"{i:02}.cls", str(i % 2).encode())]
    members.append(("99.png", b"no image"))
    members.append(("99.cls", b"0"))
    write_tar(folder / "test/0.tar", members)
    (folder / "test/nshards.txt").write_text("1\n")
    return folder


def config(shapes, **values):
    return EvaluateConfig(
        datasets=("shapes",), folders={"shapes": f"webdataset:{shapes}"}, also=("consistency",), device="cpu", **values
    )


def test_two_processes_give_the_records_of_one_and_a_second_call_does_nothing(model_folder, shapes, tmp_path):
    one = evaluate.evaluate_model(model_folder, config(shapes), tmp_path / "one")
    two = evaluate.evaluate_model(model_folder, config(shapes, processes=2), tmp_path / "two")
    records = [read_results(tmp_path / name / "results.jsonl") for name in ("one", "two")]
    assert len(records[0]) == 3 + 2  # three languages, two of them beside English
    assert [{**record, "model": ""} for record in records[0]] == [{**record, "model": ""} for record in records[1]]
    assert one["datasets"]["shapes"]["num_bad_images"] == two["datasets"]["shapes"]["num_bad_images"] == 1
    features = sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two/features").rglob("*.npy"))
    assert len(features) == 1
    assert (tmp_path / "one" / features[0]).read_bytes() == (tmp_path / "two" / features[0]).read_bytes()
    before = (tmp_path / "two" / features[0]).stat().st_mtime_ns
    evaluate.evaluate_model(model_folder, config(shapes, processes=2), tmp_path / "two")
    assert (tmp_path / "two" / features[0]).stat().st_mtime_ns == before
    assert CHUNK_IMAGES > 13
    assert (tmp_path / "one/results.csv").exists()
    assert (tmp_path / "one/table.tex").exists()


def test_a_lost_process_is_reported_with_its_signal(model_folder, shapes, tmp_path):
    def kill_one():
        while not multiprocessing.active_children():
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()

    killer = threading.Timer(0.5, kill_one)
    killer.start()
    with pytest.raises(StageFailed, match=r"by SIGKILL: .* memory runs out; try fewer evaluate\.processes"):
        evaluate.evaluate_model(model_folder, config(shapes, processes=2), tmp_path)
    killer.join()


def test_each_process_takes_the_next_device_in_turn(monkeypatch):
    torch = pytest.importorskip("torch")
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for number in range(4):
        processes._choose_device(number)
    assert taken == [0, 1, 0, 1]


def test_config_problems_are_reported_before_a_model_is_loaded(tmp_path):
    with pytest.raises(UserError) as caught:
        evaluate.evaluate_model("nowhere", EvaluateConfig(datasets=("petz",), processes=0, suite="x"), tmp_path)
    assert len(caught.value.problems) == 3
