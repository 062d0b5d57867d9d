"""One pass over images and texts, its features on disk, the gallery, and the stage as a recipe runs it."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluated import caption_files, recipe_to_evaluate, write_checkpoint
from miniature import write_files
from model_folders import put_any_model_in_hub_cache
from stages import finish, why_run
from toy import markdown_rows
from worldclip.config import load_recipe
from worldclip.contracts.records import read_results, results_of
from worldclip.core.artifacts import read_json
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import lock_folder
from worldclip.core.settings import to_dict
from worldclip.evaluate import engine, image_features
from worldclip.evaluate import gallery as gallery_module
from worldclip.evaluate import stage as evaluate
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.gallery import gallery
from worldclip.evaluate.image_features import cache_folder, encode_images
from worldclip.model import decode
from worldclip.model import load as model_load
from worldclip.model.preprocess import PerImage, Preprocess
from worldclip.report.results import NO_LANGUAGE
from worlds import WordModel, word_dataset

MODEL = {"model": "made up", "model_digest": "0"}
WORDS = ["cat", "dog", "owl", "bee", "cat"]
PAIR = ("zeroshot_classification", "image_text_retrieval")


def test_each_image_is_encoded_once_for_all_languages(tmp_path):
    model = WordModel()
    records, _, _ = engine.evaluate(model, MODEL, [word_dataset("a", WORDS)], [], tmp_path / "r.jsonl", batch_size=2)
    assert sorted(model.images) == sorted(word.encode() for word in WORDS)
    assert len(model.texts) == len(set(model.texts)), "a text of two tasks was encoded twice"
    assert [len(text) for text in model.texts] == sorted(len(text) for text in model.texts), "languages together"
    assert [(r["lang"], r["task"]) for r in records] == [(lang, task) for lang in ("en", "de") for task in PAIR]
    assert {record["dataset"] for record in records} == {"a"}


def test_questions_without_a_decodable_image_are_named(tmp_path):
    dataset = word_dataset("a", ["broken", "cat", "broken", "dog"])
    asked = dataclasses.replace(dataset.tasks("en")[0], image_idx=np.array([0]), target=np.array([0]), slices={})
    few = dataclasses.replace(dataset, digest="few", tasks=lambda lang: [asked])  # a language may ask about few images
    with pytest.raises(UserError, match=r"dataset a: zeroshot_classification in en: none of the images"):
        engine.evaluate(WordModel(), MODEL, [few], ["en"], tmp_path / "r.jsonl")
    for _ in range(2):  # encoded, then from the cache
        with pytest.raises(UserError, match="none of its 3 images can be decoded: a0: not an image"):
            encode_images(WordModel(), word_dataset("a", ["broken"] * 3), 2, tmp_path)


def test_only_equal_model_data_and_protocol_are_not_evaluated_again(tmp_path, monkeypatch):
    path, dataset = tmp_path / "r.jsonl", word_dataset("a", WORDS)
    engine.evaluate(WordModel(), MODEL, [dataset], ["en"], path)
    asked = dataset.tasks("en")
    same_tasks = dataclasses.replace(dataset, digest="other files")
    other_ties = [dataclasses.replace(task, protocol={"ties": "first"}) for task in asked]
    preprocessed = WordModel()
    preprocessed.preprocess = {"exif": "ignored"}
    for model, model_id, data in (
        (WordModel(), MODEL | {"model_digest": "1"}, dataset),
        (WordModel(), MODEL, word_dataset("a", ["owl", "cat"])),
        (WordModel(), MODEL, same_tasks),
        (WordModel(), MODEL, dataclasses.replace(dataset, tasks=lambda lang: other_ties)),
        (preprocessed, MODEL, dataset),
    ):
        before = read_results(path)
        records, _, _ = engine.evaluate(model, model_id, [data], ["en"], path)
        assert model.texts
        assert read_results(path) == [*before, *records], "what was measured before stays"
        assert len(records) == 2
    again = WordModel()
    engine.evaluate(again, MODEL | {"model": "another name of it"}, [dataset], ["en"], path)
    assert again.texts == [], "the same model was evaluated again because it has another name"
    path.write_text(path.read_text() + '{"model": ')
    with pytest.raises(UserError, match=r"r\.jsonl:13 is not a record"):
        engine.evaluate(WordModel(), MODEL, [dataset], ["en"], path)


def test_a_dataset_without_the_languages_is_named_and_its_images_are_not_encoded(tmp_path):
    said, model = [], WordModel()
    sets = [word_dataset("a", WORDS), word_dataset("b", ["elk"], languages=("sw",))]
    _, features, _ = engine.evaluate(model, MODEL, sets, ["de"], tmp_path / "r.jsonl", say=said.append)
    assert "b has none of these languages and is left out; it has sw" in said
    assert list(features) == ["a"]
    assert b"elk" not in model.images


def test_what_a_call_did_not_ask_for_stays_and_its_number_is_said(tmp_path):
    path = tmp_path / "r.jsonl"
    sets = {name: word_dataset(name, WORDS) for name in ("a", "b")}
    first, _, _ = engine.evaluate(WordModel(), MODEL, [sets["a"]], ["en"], path)
    said = []
    second, _, _ = engine.evaluate(WordModel(), MODEL, [sets["b"]], ["de"], path, say=said.append)
    assert read_results(path) == [*first, *second]
    assert said[-1] == "2 records of other models, data or languages stay in r.jsonl"
    engine.evaluate(WordModel(), MODEL, list(sets.values()), [], path, part=(1, 2))
    engine.evaluate(WordModel(), MODEL, [sets["a"]], ["en"], path)  # one language, after a slice of all
    assert len(read_results(path)) == 6
    assert list(tmp_path.glob("slice_*")) == []


def test_texts_in_memory_are_bounded_and_encoded_again_after_they_were_forgotten(monkeypatch):
    texts = [f"word{i % 7}" for i in range(40)]
    plain = engine.TextFeatures(WordModel(), 4)(texts)
    monkeypatch.setattr(engine, "TEXTS_KEPT", 3)
    model = WordModel()
    small = engine.TextFeatures(model, 4)
    for start in range(0, 40, 5):
        np.testing.assert_array_equal(small(texts[start : start + 5]), plain[start : start + 5])
        assert len(small._features) <= 5  # those that were asked for last
    assert len(model.texts) > 7


def test_interrupted_sweep_resumes_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "GROUP_TEXTS", 1)
    path = tmp_path / "r.jsonl"
    sets = [word_dataset("a", WORDS), word_dataset("b", ["elk", "cat"])]
    for results in (path, tmp_path / "whole.jsonl"):
        others, _, _ = engine.evaluate(WordModel(), {**MODEL, "model_digest": "another"}, sets[:1], [], results)
    whole, _, _ = engine.evaluate(WordModel(), MODEL, sets, [], results)
    for batches_left in (1, 1, 0):  # each of the four (dataset, language) is one batch of texts here
        with pytest.raises(KeyboardInterrupt):
            engine.evaluate(WordModel(batches_left), MODEL, sets, [], path)
        stored = read_results(path)
        assert stored[: len(others)] == others
        assert len(stored) > len(others)
    last = WordModel()
    records, _, _ = engine.evaluate(last, MODEL, sets, [], path)
    assert records == whole
    messages = []
    engine.evaluate(WordModel(0), MODEL, sets, [], path, say=messages.append)  # a text would interrupt it
    assert messages[-2] == "nothing to do: results.jsonl has all 8 records"
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not any(text.startswith("en/") for text in last.texts), "what was done was done again"


def test_a_model_that_is_told_the_language_of_texts_is_told_that_of_each(tmp_path, monkeypatch):
    """NLLB-CLIP: a model for each language."""
    told = []

    class ToldModel(WordModel):
        lang = "default"

        def encode_text(self, texts):
            told.extend((self.lang, text.split("/")[0]) for text in texts)
            return super().encode_text(texts)

    def in_language(model, lang):
        if lang == "sw":
            return model
        changed = ToldModel()
        changed.lang = lang
        return changed

    monkeypatch.setattr(engine.nllb, "is_told_language", lambda model: isinstance(model, ToldModel))
    monkeypatch.setattr(engine.nllb, "in_language", in_language)
    dataset = word_dataset("a", WORDS, ("en", "de", "sw"))
    said = []
    records, _, encode = engine.evaluate(ToldModel(), MODEL, [dataset], [], tmp_path / "r.jsonl", say=said.append)
    assert set(told) == {("en", "en"), ("de", "de"), ("default", "sw")}
    assert [line for line in said if "has no token of sw;" in line]
    assert all(record["metrics"].get("acc1", 1.0) == 1.0 for record in records)
    encode.in_language("de")(["de/x"])
    assert told[-1] == ("de", "de")


def test_slices_measure_each_pair_once_and_the_last_call_joins_them(tmp_path):
    sets = [word_dataset("a", WORDS, ("en", "de", "sw")), word_dataset("b", WORDS, ("en", "de"))]
    whole_results, results = (tmp_path / name / "results.jsonl" for name in ("whole", "sliced"))
    for path in (whole_results, results):
        others, _, _ = engine.evaluate(WordModel(), MODEL | {"model_digest": "another"}, sets, [], path, part=(1, 3))
    whole, _, _ = engine.evaluate(WordModel(), MODEL, sets, [], whole_results)
    measured = [engine.evaluate(WordModel(), MODEL, sets, [], results, part=(i, 3))[0] for i in (2, 3, 1)]
    assert sorted(record["digest"] for records in measured for record in records) == sorted(
        record["digest"] for record in whole
    )
    assert all(measured)
    assert read_results(results.with_name("slice_1_of_3.jsonl")) == [*others, *measured[2]]
    assert not results.exists()
    model = WordModel()
    joined, _, _ = engine.evaluate(model, MODEL, sets, [], results)
    assert model.texts == []
    assert joined == whole
    assert results.read_bytes() == whole_results.read_bytes()
    assert list(results.parent.glob("slice_*")) == []


SOME_BROKEN = ["cat", "broken", "owl", "bee", "elk", "broken", "broken"]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(image_features, "CHUNK_IMAGES", 2)


@pytest.mark.parametrize("writer", ["write_json", "write_array"])
def test_a_kill_between_the_files_of_a_chunk_leaves_none_that_is_half(writer, tmp_path, monkeypatch):
    whole = encode_images(WordModel(), word_dataset("a", SOME_BROKEN), 3)
    write = getattr(image_features, writer)

    def write_and_end(path, content):
        write(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(image_features, writer, write_and_end)
    with pytest.raises(KeyboardInterrupt):
        encode_images(WordModel(), word_dataset("a", SOME_BROKEN), 3, tmp_path)
    monkeypatch.undo()
    found = encode_images(WordModel(), word_dataset("a", SOME_BROKEN), 3, tmp_path)
    np.testing.assert_array_equal(found.features_ND, whole.features_ND)
    assert found.bad == whole.bad


def test_interrupted_pass_resumes_at_the_next_chunk_and_a_corrupt_one_is_named(tmp_path, small_chunks):
    chunk = tmp_path / "000000002.npy"
    plain = encode_images(WordModel(), word_dataset("a", SOME_BROKEN), 4)
    encode_images(WordModel(), word_dataset("a", SOME_BROKEN), 3, tmp_path)
    chunk.unlink()
    model = WordModel()
    messages = []
    found = encode_images(model, word_dataset("a", SOME_BROKEN), 3, tmp_path, messages.append)
    assert model.images == [b"owl", b"bee"]
    np.testing.assert_array_equal(found.features_ND, plain.features_ND)
    assert found.bad == plain.bad == [{"key": f"a{i}", "reason": "not an image"} for i in (1, 5, 6)]
    assert messages == ["a: 4 of 7 images encoded"]
    chunk.write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"000000002\.npy is corrupt .*; remove .* and rerun to encode it again"):
        encode_images(WordModel(), word_dataset("a", SOME_BROKEN), 3, tmp_path)


def test_cache_key_is_model_images_decoder_and_preprocessing(monkeypatch):
    """What differs from process to process, such as the address of a transform, is no part of it."""
    preprocessing = Preprocess(8, "shortest", (0.5,), (0.5,))

    def key(digest="0", size=8, exif="applied", **dataset):
        model = WordModel()
        model.preprocess = {"exif": exif}
        model.processor = PerImage(lambda image: image, dataclasses.replace(preprocessing, size=size))
        changed = dataclasses.replace(word_dataset("a", WORDS), images_digest="i", **dataset)
        return cache_folder(Path("root"), model, digest, changed)

    keys = [key(), key("1"), key(size=9), key(exif="ignored")]
    assert key(digest="0", languages=("en",)) == keys[0]
    keys.append(cache_folder(Path("root"), WordModel(), "0", word_dataset("a", WORDS)))
    keys.append(cache_folder(Path("root"), WordModel(), "0", word_dataset("a", WORDS[::-1])))
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    assert len({*keys, key()}) == 7


def test_other_prompts_and_languages_reuse_image_features(tmp_path):
    dataset = dataclasses.replace(word_dataset("a", ["cat", "dog"]), images_digest="images")
    engine.evaluate(WordModel(), MODEL, [dataset], ["en"], tmp_path / "r.jsonl", cache=tmp_path / "features")
    changed = dataclasses.replace(dataset, digest="other texts")
    model = WordModel()
    engine.evaluate(model, MODEL, [changed], [], tmp_path / "r.jsonl", cache=tmp_path / "features")
    assert model.images == []
    assert model.texts


def gallery_of(words, size, languages=("en", "de")):
    dataset = word_dataset("a", words)
    features = encode_images(WordModel(), dataset, 4).features_ND
    features[1::2] = -features[1::2]  # every second image: its own name is the worst
    return gallery(dataset, features, TextFeatures(WordModel(), 8), languages, size)


GALLERY_WORDS = [f"word{i}" for i in range(20)]


@pytest.mark.parametrize(("num_images", "size", "num_right"), [(20, 6, 3), (3, 3, 2)])
def test_half_are_right_and_right_ones_fill_up_where_wrong_ones_are_few(num_images, size, num_right):
    images = gallery_of(GALLERY_WORDS[:num_images], size)
    is_right = [image["names"]["en"]["best"][0]["is_right"] for image in images]
    assert is_right == [True] * num_right + [False] * (size - num_right)
    assert all(image["names"]["de"]["truth"] == f"de/word{image['key'][1:]}" for image in images)
    assert all(len(image["names"]["de"]["best"]) == 5 for image in images)


def test_choice_is_by_hash_and_leaves_out_undecodable_images_and_many_texts(monkeypatch):
    first, again = ([image["key"] for image in gallery_of(GALLERY_WORDS, 4)] for _ in range(2))
    assert first == again != sorted(first)
    images = gallery_of(["broken", "cat", "dog", "broken", "owl"], 5, languages=("en",))
    assert {image["key"] for image in images} == {"a1", "a2", "a4"}
    assert all(list(image["names"]) == ["en"] for image in images)
    assert gallery_of(["cat"], 0) == []
    monkeypatch.setattr(gallery_module, "MAX_TEXTS", 22)
    assert gallery_of(["cat", "dog"], 2), "22 names per language"
    assert gallery_of(["cat", "dog", "owl"], 2) == []


def test_every_right_class_of_an_image_is_marked_as_right():
    """Images a0, a4 and a5 show a cat and a dog, of which the dog comes first; the other images show a bee."""
    words = ["dog", "owl", "bee", "bee", "dog", "dog"]
    dataset = word_dataset("a", words, languages=("en",))
    classification, *_ = dataset.tasks("en")
    cat = len(words) + 2
    names = [*classification.class_names[:cat], ["en/cat"], *classification.class_names[cat + 1 :]]
    dog, bee = 0, 2
    task = dataclasses.replace(
        classification,
        class_names=names,
        target=np.array([cat, bee, bee, bee, cat, cat]),
        also_right=(np.array([0, 1, 1, 4, 5]), np.array([dog, dog, cat, dog, dog])),
    )
    dataset = dataclasses.replace(dataset, tasks=lambda lang: [task])
    features = encode_images(WordModel(), dataset, 4).features_ND
    encode = TextFeatures(WordModel(), 8)
    score = task.score(features, encode)
    images = {image["key"]: image["names"]["en"] for image in gallery(dataset, features, encode, ["en"], 6)}
    found = {key: shown["best"][0]["is_right"] for key, shown in images.items()}
    assert found == {f"a{i}": rank == 0 for i, rank in enumerate(score.ranks["acc"])}
    assert [key for key, is_right in found.items() if not is_right] == ["a1"]
    assert images["a0"]["truth"] == "en/cat, en/dog"
    assert list(images)[-1] == "a1", "right ones come first"


RETRIEVAL = "image_text_retrieval"


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """RUN with a checkpoint, and `mini`, a dataset in Crossmodal-3600's layout next to it."""
    write_files(tmp_path / "mini", caption_files(("cat", "dog")))
    write_checkpoint(tmp_path / "run")
    monkeypatch.setattr(model_load, "load", lambda source, **options: WordModel())
    return tmp_path / "run"


def recipe_of(run_dir, **evaluate_config):
    return recipe_to_evaluate({"mini": f"captions:{run_dir.parent / 'mini'}"}, **evaluate_config)


def run(recipe, run_dir):
    return finish("evaluate", recipe, run_dir, LocalExecutor())


def languages_of(report, dataset="mini"):
    return list(report["datasets"][dataset]["tasks"][RETRIEVAL]["languages"])


def test_stage_writes_records_table_and_report(run_dir):
    report = run(recipe_of(run_dir), run_dir)
    records = read_results(run_dir / "evaluate" / "results.jsonl")
    assert [(record["model"], record["lang"]) for record in records] == [
        ("train/step_000000010", lang) for lang in ("en", "th")
    ]
    assert "### mini" in (run_dir / "evaluate" / "table.md").read_text()
    assert read_json(run_dir / "evaluate" / "report.json") == json.loads(json.dumps(report))
    mean = report["datasets"]["mini"]["tasks"][RETRIEVAL]["mean"]
    assert mean["languages"] == ["en", "th"]
    assert mean["metrics"]["image_retrieval_recall@1"] == 1.0


def test_the_papers_protocol_is_in_the_records_the_table_and_the_model(run_dir, monkeypatch):
    loaded = []

    def load(source, device, preprocess, tells_language):
        loaded.append(preprocess)
        model = WordModel()
        sizes = {"resize": "shortest edge 8", "crop": "central 8 x 8", "interpolation": "bicubic"}
        exif = "ignored" if preprocess == "reference" else "applied"
        model.preprocess = {**sizes, "implementation": "Pillow", "exif": exif}
        return model

    monkeypatch.setattr(model_load, "load", load)

    def results(**evaluate_config):
        run(recipe_of(run_dir, **evaluate_config), run_dir)
        return results_of(run_dir / "evaluate")

    ours = results()
    papers = results(protocol="paper")
    assert results() == ours
    assert loaded == ["source", "reference", "source"]
    for record, ties, exif in ((ours[0], "against", "applied"), (papers[0], "first", "ignored")):
        assert (record["protocol"]["ties"], record["protocol"]["preprocess"]["exif"]) == (ties, exif)
    results(protocol="paper")
    table = (run_dir / "evaluate" / "table.md").read_text()
    assert "Images: resize shortest edge 8, crop central 8 x 8, bicubic by Pillow, EXIF ignored." in table
    assert "Ties (`first`): of equal scores the first candidate wins." in table
    assert read_json(run_dir / "evaluate" / "report.json")["protocol"] in table


def test_finished_stage_reruns_only_for_another_checkpoint_config_protocol_or_data(run_dir, monkeypatch):
    recipe = recipe_of(run_dir)
    run(recipe, run_dir)
    assert why_run("evaluate", recipe, run_dir) is None
    assert why_run("evaluate", recipe_of(run_dir, batch_size=1), run_dir) is None
    assert "evaluate.protocol" in why_run("evaluate", recipe_of(run_dir, protocol="paper"), run_dir)
    for module, name in ((engine, "PROTOCOL_VERSION"), (decode, "VERSION")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 99)
            assert why_run("evaluate", recipe, run_dir) == "its inputs changed: protocol"
    write_files(run_dir.parent, {"mini/images/cat.png": "owl"})
    assert "mini" in why_run("evaluate", recipe, run_dir)
    write_checkpoint(run_dir, 20)
    assert run(recipe, run_dir)["model"] == "train/step_000000020"
    models = {record["model"] for record in read_results(run_dir / "evaluate" / "results.jsonl")}
    assert models == {"train/step_000000010", "train/step_000000020"}, "results of another checkpoint went"
    assert {record["model"] for record in results_of(run_dir / "evaluate")} == {"train/step_000000020"}


def test_languages_default_to_those_of_the_run(run_dir):
    for evaluate_config, codes, expected in (({}, ["th", "sw"], "th"), ({"languages": ["en"]}, ["th"], "en")):
        sections = to_dict(recipe_of(run_dir, **evaluate_config))
        recipe = load_recipe({**sections, "languages": {"codes": codes}})
        assert languages_of(run(recipe, run_dir)) == [expected]
    other = write_files(run_dir.parent / "other", caption_files(["cat"], langs=["sw"]))
    folders = {"mini": f"captions:{run_dir.parent / 'mini'}", "other": f"captions:{other}"}
    found = run(recipe_to_evaluate(folders, languages=["th"]), run_dir)
    assert "other" not in found["datasets"]
    assert languages_of(found) == ["th"]


def write_places(run_dir):
    """Let the images of `mini` be from two countries, six from each."""
    files = caption_files([f"word{i}" for i in range(12)])
    lines = [json.loads(line) for line in files["captions.jsonl"].splitlines()]
    places = [{**line, "image/locale": "ke" if i % 2 else "pe"} for i, line in enumerate(lines)]
    write_files(run_dir.parent / "mini", {**files, "captions.jsonl": "\n".join(map(json.dumps, places))})


def test_stage_writes_the_table_of_few_shot_probes(run_dir):
    write_places(run_dir)
    run(recipe_of(run_dir, also=["few_shot"]), run_dir)
    (record,) = [record for record in results_of(run_dir / "evaluate") if record["lang"] == NO_LANGUAGE]
    assert record["num_classes"] == {"5": 2}
    rows = markdown_rows((run_dir / "evaluate/table.md").read_text("utf-8"))
    assert (rows[0][0], rows[0][-1]) == ("language", "acc1 5 shot")
    assert "und" in [row[0] for row in rows]


def test_probes_are_measured_next_to_any_languages(run_dir):
    write_places(run_dir)
    for languages in (["th"], ["th", NO_LANGUAGE]):
        found = run(recipe_of(run_dir, languages=languages, also=["few_shot"]), run_dir)["datasets"]["mini"]["tasks"]
        langs = {task: list(of_task["languages"]) for task, of_task in found.items()}
        assert langs == {RETRIEVAL: ["th"], "few_shot_country": [NO_LANGUAGE]}
    assert languages_of(run(recipe_of(run_dir, languages=["th"]), run_dir)) == ["th"]


def test_any_model_is_evaluated_into_any_folder_and_resumes(run_dir, tmp_path, monkeypatch):
    put_any_model_in_hub_cache("someone/model", tmp_path, monkeypatch)
    config = recipe_of(run_dir).evaluate
    found = evaluate.evaluate_model("someone/model", config, tmp_path / "out")
    assert found["model"] == "someone/model"
    assert (tmp_path / "out" / "table.md").exists()
    assert evaluate.evaluate_model("someone/model", config, tmp_path / "out") == found
    with lock_folder(tmp_path / "out"), pytest.raises(UserError, match="out is in use by process"):
        evaluate.evaluate_model("someone/model", config, tmp_path / "out")
    other = evaluate.evaluate_model(run_dir / "train" / "step_000000010", config, tmp_path / "out")
    assert other["model_digest"] != found["model_digest"]
    assert {record["model"] for record in read_results(tmp_path / "out" / "results.jsonl")} == {
        "someone/model",
        str(run_dir / "train" / "step_000000010"),
    }
    assert {record["model_digest"] for record in results_of(tmp_path / "out")} == {other["model_digest"]}


def test_what_is_missing_is_named(run_dir, tmp_path):
    nothing_there = EvaluateConfig(suite="imagenet", data=str(tmp_path), allow_missing=True)
    with pytest.raises(UserError, match="none of suite imagenet is below"):
        evaluate.evaluate_model("someone/model", nothing_there, tmp_path / "out")
    folders = {"pets": "wds:/data", "emoji_base": "cvqa:/data"}
    with pytest.raises(UserError, match='did you mean "emoji_tone"') as caught:
        recipe_to_evaluate(folders, datasets=["emoji_ton"], batch_size=0)
    assert len(caught.value.problems) == 4
    without_datasets = recipe_of(run_dir, datasets=[])
    run(without_datasets, run_dir)
    assert why_run("evaluate", without_datasets, run_dir) is None


def test_problems_of_all_datasets_are_reported_before_any_work(run_dir):
    mini = write_files(run_dir.parent / "mini", {"images/dog.png": None})
    tars = write_files(run_dir.parent / "tars", {"0.tar": b"no tar"})
    recipe = recipe_to_evaluate({"mini": f"captions:{mini}", "tars": f"pool:{tars}", "gone": "cvqa:/nowhere"})
    with pytest.raises(UserError) as caught:
        run(recipe, run_dir)
    for problem, words in zip(
        caught.value.problems, ("mini: .*: dog", r"tars: .*0\.tar", "gone: .*/nowhere"), strict=True
    ):
        assert re.match(f"dataset {words}", problem)
    assert not (run_dir / "evaluate").exists()


class RemovingModel(WordModel):
    """Removes a folder after each batch of images."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def encode_each(self, images):
        features = super().encode_each(images)
        shutil.rmtree(self.folder, ignore_errors=True)
        return features


def test_a_dataset_that_goes_away_ends_the_evaluation_and_nothing_of_it_is_kept(run_dir, monkeypatch):
    names = ("results.jsonl", "results.csv", "table.md", "report.json")
    recipe = recipe_of(run_dir, batch_size=1)
    run(recipe, run_dir)
    whole = [(run_dir / "evaluate" / name).read_bytes() for name in names]
    shutil.rmtree(run_dir / "evaluate")
    with monkeypatch.context() as patch:
        patch.setattr(model_load, "load", lambda source, **options: RemovingModel(run_dir.parent / "mini"))
        with pytest.raises((StageFailed, UserError), match="mini"):
            run(recipe, run_dir)
    write_files(run_dir.parent / "mini", caption_files(("cat", "dog")))
    run(recipe, run_dir)
    assert [(run_dir / "evaluate" / name).read_bytes() for name in names] == whole
