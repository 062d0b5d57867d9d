"""A sweep shared by two processes is the same sweep: features, records, and a call that goes on."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time

import pytest

from embedded_world import B32, picture
from evaluated import webdataset_files
from miniature import write_files
from small_models import save_hugging_face
from worldclip.contracts.records import read_results
from worldclip.core.errors import StageFailed, UserError
from worldclip.evaluate import processes
from worldclip.evaluate import stage as evaluate
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.image_features import CHUNK_IMAGES


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_hugging_face(B32, folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Thirteen pictures of two classes, one of them corrupt, with names in three languages."""
    names = {"de": {"classes": ["roter Kreis", "blaues Quadrat"]}, "fr": {"classes": ["cercle rouge", "carré bleu"]}}
    members = {}
    for i in range(13):
        members |= {f"{i:02}.png": picture(i) if i < 12 else b"no image", f"{i:02}.cls": str(i % 2).encode()}
    files = webdataset_files(["red circle", "blue square"], template="a {c}") | {"test/0.tar": members}
    return write_files(tmp_path_factory.mktemp("pictures"), files | {"languages.json": json.dumps(names)})


def config(pictures, **values):
    return EvaluateConfig(
        datasets=("mine",), folders={"mine": f"webdataset:{pictures}"}, also=("consistency",), device="cpu", **values
    )


def test_two_processes_give_the_records_of_one_and_a_second_call_does_nothing(model_folder, pictures, tmp_path):
    one = evaluate.evaluate_model(model_folder, config(pictures), tmp_path / "one")
    two = evaluate.evaluate_model(model_folder, config(pictures, processes=2), tmp_path / "two")
    records = [read_results(tmp_path / name / "results.jsonl") for name in ("one", "two")]
    assert len(records[0]) == 3 + 2  # three languages, two of them beside English
    assert [{**record, "model": ""} for record in records[0]] == [{**record, "model": ""} for record in records[1]]
    assert one["datasets"]["mine"]["num_bad_images"] == two["datasets"]["mine"]["num_bad_images"] == 1
    features = sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two/features").rglob("*.npy"))
    assert len(features) == 1
    assert (tmp_path / "one" / features[0]).read_bytes() == (tmp_path / "two" / features[0]).read_bytes()
    before = (tmp_path / "two" / features[0]).stat().st_mtime_ns
    evaluate.evaluate_model(model_folder, config(pictures, processes=2), tmp_path / "two")
    assert (tmp_path / "two" / features[0]).stat().st_mtime_ns == before
    assert CHUNK_IMAGES > 13
    assert (tmp_path / "one/results.csv").exists()
    assert (tmp_path / "one/table.tex").exists()


def test_a_lost_process_is_reported_with_its_signal(model_folder, pictures, tmp_path):
    def kill_one():
        while not multiprocessing.active_children():
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()

    killer = threading.Timer(0.5, kill_one)
    killer.start()
    with pytest.raises(StageFailed, match=r"by SIGKILL: .* memory runs out; try fewer evaluate\.processes"):
        evaluate.evaluate_model(model_folder, config(pictures, processes=2), tmp_path)
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
