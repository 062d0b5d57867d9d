"""The stage writes complete formats, each compared before it takes its name; model cards; pruned vocabularies."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Pipeline
from tokenizers import models, processors
from transformers import MetaClip2VisionModel

import worldclip
from evaluated import record
from killed import contents
from matched import write_matched_texts
from miniature import write_files
from model_folders import TINY, edit, save_tiny
from small_models import CORPUS, TEXTS
from stages import finish, job_of, run_stage, why_run
from toy import markdown_rows
from worldclip import cli, export
from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Record, Run, lock_folder
from worldclip.core.settings import to_toml
from worldclip.evaluate.tables import markdown_table
from worldclip.export import ExportConfig, export_model, model_card, prune_vocabulary
from worldclip.model import sample_inputs
from worldclip.model.clip import create_model, image_processor, model_config
from worldclip.model.formats import huggingface_folder, open_clip_folder
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.load import Source
from worldclip.model.tokenizer import tokenizer_of
from worldclip.report.metrics import CLASSIFICATION

RECIPE = {"pool": {"path": "pool"}, "languages": {"codes": ["en", "zh"]}, "balance": {"tail_fraction": 0.1}}


def run_export(run_dir: Path, **keys):
    """Run the stage with these keys of [export] and return its report."""
    return finish("export", load_recipe({**RECIPE, "export": keys}), run_dir, LocalExecutor())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Write a run with one checkpoint of initial weights."""
    run_dir = tmp_path_factory.mktemp("trained") / "my_run"
    folder = run_dir / "train" / "step_000000009"
    save_tiny(folder, ["a red apple", "红苹果"] * 3)
    artifacts.write_json(folder / "trainer" / "state.json", {"step": 9})
    return run_dir


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "my_run"))


def test_exported_folder_embeds_like_the_checkpoint_without_trainer_state(run_dir):
    report = run_export(run_dir)
    folder = run_dir / "export" / "huggingface"
    assert report["formats"]["huggingface"]["max_difference"] <= sample_inputs.TOLERANCE
    assert not (folder / "trainer").exists()
    clip = worldclip.load(run_dir, device="cpu")
    texts = ["a red apple", "红苹果"]
    np.testing.assert_array_equal(worldclip.load(folder, device="cpu").encode_text(texts), clip.encode_text(texts))
    manifest = json.loads((run_dir / "export" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"] == job_of("export", load_recipe(RECIPE), run_dir).inputs
    write_evaluation(run_dir, "step_000000009", {"en": {"acc1": 0.5}})
    assert why_run("export", load_recipe(RECIPE), run_dir) == "its inputs changed: card"
    edit(run_dir / "train/step_000000009/tokenizer_config.json", model_max_length=31)
    assert "checkpoint" in why_run("export", load_recipe(RECIPE), run_dir), "a file of the model other than its weights"
    tower = MetaClip2VisionModel.from_pretrained(folder).eval()  # plain transformers reads the image tower alone
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        hidden_states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        whole = clip.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(hidden_states[-2], whole[-2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("module", [huggingface_folder, open_clip_folder])
def test_export_that_differs_when_loaded_is_refused_and_the_old_one_stays(module, run_dir, monkeypatch):
    name, write = module.__name__.rpartition(".")[2].removesuffix("_folder"), module.write
    run_export(run_dir, formats=[name])
    before = (run_dir / "export" / name / "README.md").read_bytes()

    def spoil(source, folder, *precisions):
        write(source, folder, *precisions)
        file = next(folder.glob("*.safetensors"))
        weights = load_file(file)
        key = next(key for key in weights if key.endswith(("visual_projection.weight", "visual.proj")))
        weights[key] = weights[key] + 1e-2 * torch.randn_like(weights[key])
        save_file(weights, file, {"format": "pt"})

    monkeypatch.setattr(module, "write", spoil)
    with pytest.raises(UserError, match=r"differ by .* nothing was exported"):
        run_export(run_dir, formats=[name])
    assert (run_dir / "export" / name / "README.md").read_bytes() == before
    assert [path.name for path in (run_dir / "export").iterdir() if path.is_dir()] == [name]
    with pytest.raises(UserError, match="nothing was exported"):
        sample_inputs.require_close(float("nan"), "transformers")


def test_what_cannot_be_exported_is_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match="run first: worldclip train"):
        run_export(tmp_path)
    config = ExportConfig(formats=(), onnx_precisions=(), corpus=("texts.csv",))
    with pytest.raises(UserError) as caught:
        export.export_model(tmp_path, tmp_path / "out", config)
    assert len(caught.value.problems) == 4


def test_export_replaces_no_folder_of_others(run_dir, tmp_path):
    files = {"huggingface/README.md": "my notes on worldclip", "huggingface/thesis.txt": "mine"}
    write_files(tmp_path / "out", files)
    with pytest.raises(UserError, match="out' is not empty and was not written by worldclip"):
        export_model(run_dir, tmp_path / "out")
    assert contents(tmp_path / "out") == {name: text.encode() for name, text in files.items()}
    run_export(run_dir)
    before = contents(run_dir / "export")
    for folder, said in ((run_dir, "is a run"), (run_dir / "export", "not written by worldclip")):
        with pytest.raises(UserError, match=said):
            export_model(run_dir / "export/huggingface", folder)
    assert contents(run_dir / "export") == before


def test_export_does_not_replace_or_remove_its_own_source(run_dir, tmp_path):
    out = tmp_path / "out"
    export_model(run_dir, out)
    (tmp_path / "link").symlink_to(out / "huggingface")
    before = contents(out)
    for source in (out / "huggingface", tmp_path / "link"):
        for name in ("huggingface", "open_clip"):
            with pytest.raises(UserError, match="whose formats an export replaces; choose another --out"):
                export_model(source, out, ExportConfig(formats=(name,)))
    assert contents(out) == before
    export_model(out / "huggingface", tmp_path / "other")


def test_a_page_that_leaves_out_unreadable_pictures_is_made_again(run_dir):
    run_export(run_dir)
    manifest = artifacts.read_manifest(run_dir / "export")
    for left_out, reason in (
        ({"pictures beyond 10,000": 7}, None),
        ({"unreadable pictures": 3}, "its inputs changed: 3 unreadable pictures"),
    ):
        counts = {**manifest["counts"], "web": {"left_out": left_out}}
        artifacts.write_json(run_dir / "export/manifest.json", {**manifest, "counts": counts})
        assert why_run("export", load_recipe(RECIPE), run_dir) == reason


def test_an_export_that_is_finished_or_was_ended_is_replaced(run_dir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_model(run_dir, out)
    manifest = artifacts.read_manifest(out)
    assert (manifest["job"], list(manifest["counts"])) == ("export", ["huggingface"])
    monkeypatch.setattr(huggingface_folder, "compare", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(run_dir, out)
    assert artifacts.read_manifest(out) is None
    assert (out / "huggingface/model.safetensors").exists()
    monkeypatch.undo()
    export_model(run_dir, out)
    assert artifacts.read_manifest(out)["inputs"] == manifest["inputs"]


def test_formats_of_another_model_whose_export_was_ended_go(run_dir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_model(run_dir, out, ExportConfig(formats=("open_clip",)))
    tokenizer_config = run_dir / "train/step_000000009/tokenizer_config.json"
    content = tokenizer_config.read_bytes()
    edit(tokenizer_config, model_max_length=31)
    monkeypatch.setattr(open_clip_folder, "compare", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(run_dir, out, ExportConfig(formats=("huggingface", "open_clip")))
    monkeypatch.undo()
    tokenizer_config.write_bytes(content)
    export_model(run_dir, out, ExportConfig(formats=("open_clip",)))
    assert not (out / "huggingface").exists(), "the folder would hold two models"


def test_formats_of_another_model_or_tokenizer_go_and_those_of_the_same_one_stay(run_dir, tmp_path):
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "out"
    tokenizer.mkdir()
    for path in (run_dir / "train/step_000000009").glob("*token*"):
        shutil.copy(path, tokenizer)
    for options in ({}, {"tokenizer": tokenizer}):
        for name in ("open_clip", "huggingface"):
            export_model(run_dir, out, ExportConfig(formats=(name,)), **options)
        assert (out / "open_clip").is_dir()
        changed = options.get("tokenizer", run_dir / "train/step_000000009")
        edit(changed / "tokenizer_config.json", model_max_length=31)
        export_model(run_dir, out, **options)
        assert not (out / "open_clip").exists(), "the folder would hold two models or two tokenizers"
        assert (out / "huggingface").is_dir()


def test_a_second_export_into_one_folder_is_refused_and_takes_nothing(run_dir, tmp_path):
    out = tmp_path / "out"
    write_files(out, {".huggingface.tmp/config.json": "{}"})  # of the process that holds the lock
    with lock_folder(out), pytest.raises(UserError, match="out is in use by process"):
        export_model(run_dir, out)
    assert (out / ".huggingface.tmp/config.json").exists()
    export_model(run_dir, out)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "huggingface", "manifest.json", "report.json"]


def test_run_and_exported_model_are_evaluated_and_exported_into_any_folder(run_dir, tmp_path, capsys):
    stored = load_recipe({**RECIPE, "pool": {"path": str(tmp_path / "tars")}, "export": {"formats": ["open_clip"]}})
    artifacts.write_text(run_dir / "recipe.toml", to_toml(stored))
    formats = ["--formats", "huggingface", "open_clip"]
    assert cli.main(["export", str(run_dir), "--out", str(tmp_path / "first"), *formats]) == 0
    exported = tmp_path / "first" / "huggingface"
    assert f"publish a folder of {exported.parent} with: hf upload OWNER/NAME FOLDER" in capsys.readouterr().err
    assert "# my_run: a CLIP for 2 languages" in (exported / "README.md").read_text()
    published = load_recipe(exported / "recipe.toml")
    assert published.pool.path == str(exported / "tars")  # relative in the file
    assert str(tmp_path) not in (exported / "recipe.toml").read_text() + (exported / "README.md").read_text()
    assert {path.name for path in (tmp_path / "first").iterdir() if path.is_dir()} == {"huggingface", "open_clip"}
    for _ in range(2):  # an export of ours may be replaced
        assert cli.main(["export", str(exported), "--out", str(tmp_path / "second"), "--formats", "open_clip"]) == 0
    assert {path.name for path in (tmp_path / "second").iterdir() if path.is_dir()} == {"open_clip"}
    for colour in ("red", "blue"):
        (tmp_path / "pictures" / colour).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "pictures" / colour / "0.png")
    flags = ["--datasets", "mine", "--folders.mine", f"folders:{tmp_path / 'pictures'}", "--device", "cpu"]
    for source in (run_dir, exported):
        out = tmp_path / f"evaluated_{source.name}"
        assert cli.main(["evaluate", str(source), "--out", str(out), *flags]) == 0
        assert (out / "results.jsonl").exists()
        assert not (out / "recipe.toml").exists()
    assert not (exported / ".lock").exists()
    assert (layout.is_run(run_dir), layout.is_run(exported)) == (True, False)
    with pytest.raises(UserError, match=r"is an exported model, not a run; give .*recipe\.toml"):
        load_recipe(exported)


# --- model cards ------------------------------------------------------------------------------------------------------

RECALLS = ("image_retrieval_recall@1", "text_retrieval_recall@1")
MEASURED = {"no": (0.183, 0.457), "zh": (0.004, 0.052), "de": (0.25, 0.5)}  # top-1, top-5


def write_evaluation(run: Path, step: str, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Write RUN/evaluate as its stage leaves it; scores: of each language in zero-shot classification."""
    records = [record_of(lang, CLASSIFICATION, dict(values)) for lang, values in scores.items()]
    write_evaluated(run, step, records)


def write_evaluated(run: Path, step: str, records: Sequence[Record]) -> None:
    digest = Source("huggingface", run / "train" / step).digest()
    tasks = {
        task: {"languages": {record["lang"]: record for record in records if record["task"] == task}}
        for task in dict.fromkeys(record["task"] for record in records)
    }
    artifacts.write_text(layout.results(run), "".join(f"{json.dumps(record)}\n" for record in records))
    artifacts.write_text(layout.results_table(run), markdown_table(records))
    report = {"model_digest": digest, "datasets": {"tone: held out": {"tasks": tasks}}}
    artifacts.write_json(layout.stage_report(run, "evaluate"), report)
    artifacts.write_manifest(run / "evaluate", config={}, inputs={"checkpoint": digest}, counts={})


def record_of(lang: str, task: str, values: dict[str, float]) -> dict:
    chance, intervals = dict.fromkeys(values, 0.05), dict.fromkeys(values, (0.06, 0.9))
    metrics = values | {"mean_per_class_recall": 0.1}
    return record(lang, "tone: held out", task, chance=chance, intervals=intervals, **metrics)


@pytest.fixture
def measured(tmp_path) -> Path:
    """Write a run with results in three languages; sw is not measured."""
    run = tmp_path / "my_run"
    recipe = {"pool": {"path": "pool"}, "languages": {}, "balance": {"tail_fraction": 0.1}}
    artifacts.write_text(run / "recipe.toml", to_toml(load_recipe(recipe)))
    kept = {lang: {"pairs_in": 100, "pairs_out": 80} for lang in (*MEASURED, "sw")}
    artifacts.write_json(run / "curate" / "report.json", {"languages": kept})
    artifacts.write_json(run / "train" / "report.json", {"seen": {"no": 1600}})  # of the last step
    artifacts.write_json(run / "train" / "config.json", {"schedule": {"global_batch_size": 75_264, "num_steps": 12}})
    artifacts.write_text(run / "pool" / "README.md", "OpenMoji, CC BY-SA 4.0\n")
    wordnet = {"source": "wordnet", "name": "Princeton WordNet", "licence": "WordNet licence"}
    sources = {"no": [wordnet], "sw": [{"source": "list", "path": "sw.parquet", "licence": "CC BY 4.0"}]}
    artifacts.write_manifest(run / "metadata", config={}, inputs={}, counts={}, sources=sources, pageviews=[])
    records = []
    for lang, (top1, top5) in MEASURED.items():
        records.append(record_of(lang, "zeroshot_classification", {"acc1": top1, "acc5": top5}))
        records.append(record_of(lang, "image_text_retrieval", dict.fromkeys(RECALLS, 0.333)))
    for step in (9, 12):
        write_files(run, {f"train/step_{step:09}/model.safetensors": str(step)})
    artifacts.write_json(run / "train/step_000000009/trainer/state.json", {"seen": {"no": 1200}})
    write_evaluated(run, "step_000000009", records)
    return run


def render(run: Path, name: str = "huggingface", step: str = "step_000000009", languages: Sequence[str] = ()) -> str:
    card = model_card.of_run(Run.open(run), run / "train" / step, languages)
    return model_card.render(
        card, name, {"max_difference": 1e-7, "checked": {"int8": 0.999886}, "page_bytes": {"first search": 1}}
    )


def test_hub_reads_results_by_language_with_the_numbers_of_the_table(measured):
    text = render(measured)
    assert "int8 in onnxruntime: smallest cosine 0.99988," in text
    data = ModelCard(text).data
    assert data.license == "unknown"
    assert data.language == ["de", "no", "sw", "zh"]  # a bare `no` is false in YAML
    rows = markdown_rows(text)
    table = {
        row[0]: [float(cell.split()[0]) for cell in row[1:]] for row in rows if row[0] in MEASURED and "." in row[1]
    }
    found = {(result.dataset_config, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {
        (lang, name): value
        for lang in table
        for name, value in zip(("acc1", "acc5", *RECALLS), table[lang], strict=True)
    }
    assert found["zh", "acc1"] == 0.4
    names = {result.dataset_name for result in data.eval_results if result.dataset_config == "no"}
    assert names == {"tone: held out (no)"}
    for name in model_card.LIBRARIES:
        assert ModelCard(render(measured, name)).data.library_name == model_card.LIBRARIES[name]
    assert "model-index" not in render(measured, "web")


def test_card_names_languages_recipe_licences_and_the_pairs_that_the_checkpoint_has_seen(measured):
    text = render(measured)
    for said in ("# my_run: a CLIP for 4 languages", "OpenMoji, CC BY-SA 4.0", "preset vit_b32"):
        assert said in text
    assert "step_000000009 of 12 steps, 677,376 pairs seen in batches of 75,264" in text
    rows = markdown_rows(text)
    assert ("no", "100", "80", "1,200") in rows
    assert ("wordnet", "Princeton WordNet", "WordNet licence", "no") in rows
    assert ("list", "sw.parquet", "CC BY 4.0", "sw") in rows
    assert any(line.startswith("Intended use: ") for line in text.splitlines())


def test_card_has_no_results_of_another_checkpoint_or_of_an_unfinished_evaluation(measured):
    assert "not evaluated" not in render(measured)
    later = render(measured, step="step_000000012")
    (measured / "evaluate/manifest.json").unlink()
    for text in (later, render(measured)):
        assert ModelCard(text).data.eval_results is None
        assert "45.7" not in text
        assert "This checkpoint was not evaluated. `worldclip evaluate RUN` measures it" in text


def test_card_of_a_smaller_vocabulary_is_about_its_languages(measured):
    text = render(measured, languages=["no"])
    assert "# my_run: a CLIP for 1 language\n" in text
    data = ModelCard(text).data
    assert data.language == ["no"]
    assert {result.dataset_config for result in data.eval_results} == {"no"}
    assert "Measured before the vocabulary was reduced." in text
    assert "not evaluated" not in render(measured, languages=["sw"])


def test_languages_of_the_card_are_those_that_the_hub_knows(measured):
    codes = ("bat_smg", "simple", "de", "als", "bh")
    kept = {code: {"pairs_out": 1} for code in codes}
    artifacts.write_json(measured / "curate/report.json", {"languages": kept})
    text = render(measured)
    assert ModelCard(text).data.language == ["gsw", "sgs", "bho", "de"]
    assert "`bat_smg` Samogitian (sgs)" in text
    assert "`simple` Simple English (none)" in text
    assert "`de`" not in text


def test_a_recipe_that_did_not_train_the_checkpoint_is_not_exported_with_it(run_dir, tmp_path):
    recipe = load_recipe({**RECIPE, "train": {"lr": 0.001}})
    trained_by = {"config": {"train": {"lr": 0.001, "num_streams": 0}}, "schedule": {}}
    schedule = {"global_batch_size": 2, "num_steps": 9}
    artifacts.write_json(run_dir / "train/config.json", {**trained_by, "inputs": {}, "schedule": schedule})
    assert run_stage("export", recipe, run_dir)
    changed = load_recipe({**RECIPE, "train": {"lr": 0.002}})
    with pytest.raises(UserError, match=r"is not the recipe that .*train was trained by: train.lr was 0.001, is 0.002"):
        finish("export", changed, run_dir)
    artifacts.write_text(run_dir / "recipe.toml", to_toml(changed))
    with pytest.raises(UserError, match=r"train.lr was 0.001, is 0.002; undo that, or export without the recipe"):
        export_model(run_dir, tmp_path / "out")
    artifacts.write_manifest(run_dir / "curate", config={}, inputs={"balance": "anew"}, counts={})
    trained_by["inputs"] = {"curate": "the list before"}
    artifacts.write_json(run_dir / "train/config.json", {**trained_by, "schedule": schedule})
    with pytest.raises(UserError, match="was trained by: curate ran again; undo that"):
        finish("export", recipe, run_dir)
    checkpoint = run_dir / "train/step_000000009"
    assert export_model(checkpoint, tmp_path / "out")["source"] == str(checkpoint)


def test_another_recipe_is_exported_again(run_dir):
    assert run_stage("export", load_recipe(RECIPE), run_dir)
    changed = load_recipe({**RECIPE, "evaluate": {"batch_size": 7}})
    artifacts.write_text(run_dir / "recipe.toml", to_toml(changed))
    assert run_stage("export", changed, run_dir)
    assert "batch_size = 7" in (run_dir / "export/huggingface/recipe.toml").read_text("utf-8")


# --- pruned vocabularies ----------------------------------------------------------------------------------------------

ENGLISH = ["a red apple", "the quick brown fox", "x x x", "a dog & a cat"]


@pytest.fixture(scope="module")
def whole(published_model) -> Clip:
    return worldclip.load(published_model("metaclip-2-worldwide-s16"), device="cpu")


def test_vocabulary_is_pruned_by_the_matched_texts_of_the_run(run_dir):
    row = {"place": 0, "lang_prob": 1.0, "entry_ids": [0]}
    texts = [("a", 0, "a red apple", "en"), ("b", 0, "红苹果", "zh")]
    rows = [{"key": k, "text_idx": i, "text": t, "lang": lang, "entries_lang": lang, **row} for k, i, t, lang in texts]
    write_matched_texts(run_dir, "000.tar", pa.Table.from_pylist(rows))
    with pytest.raises(UserError, match=r"export\.languages: the run has no matched text in de, sw, .*export\.corpus"):
        run_export(run_dir, languages=["en", "sw,de"])
    assert not (run_dir / "export/huggingface").exists()
    report = run_export(run_dir, languages=["en"])
    assert report["vocabulary"]["texts_proven"] == 1
    before, small = (
        worldclip.load(run_dir / name, device="cpu") for name in ("train/step_000000009", "export/huggingface")
    )
    np.testing.assert_allclose(small.encode_text("a red apple"), before.encode_text("a red apple"), atol=1e-6)
    assert small.tokenizer.vocab_size == report["vocabulary"]["rows_after"] < before.tokenizer.vocab_size
    assert (small.tokenizer.encode(["红苹果"]).ids == small.tokenizer.hf.unk_token_id).any()
    assert job_of("export", load_recipe({**RECIPE, "export": {"languages": ["en"]}}), run_dir).inputs["corpus"]


@pytest.mark.parametrize("langs", [["en", "zh", "sw"], ["zh", "en", "en"], ["sw", "zh", "en"]])
def test_a_language_of_the_corpus_may_have_its_texts_in_any_shard(tmp_path, langs):
    row = {"key": "a", "text_idx": 0, "place": 0, "lang_prob": 1.0, "entry_ids": [0]}
    for number, lang in enumerate(langs):
        rows = [{**row, "text": f"text {number}", "lang": lang, "entries_lang": lang}]
        write_matched_texts(tmp_path, f"{number:03}.tar", pa.Table.from_pylist(rows))
    texts = prune_vocabulary.texts_of(ExportConfig(languages=("en", "zh")), tmp_path, ["en", "zh"])
    assert list(texts) == [f"text {number}" for number, lang in enumerate(langs) if lang != "sw"]
    with pytest.raises(UserError, match="no matched text in th, whose"):
        list(prune_vocabulary.texts_of(ExportConfig(languages=("en", "th")), tmp_path, ["en", "th"]))


def test_texts_of_the_corpus_embed_alike_with_fewer_rows(published_model, whole, tmp_path, capsys):
    corpus, texts = tmp_path / "texts.txt", [*ENGLISH, TEXTS[2]]
    corpus.write_text("\n".join([*texts, ""]), encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["export", str(published_model("metaclip-2-worldwide-s16")), "--out", str(out), "--json"]
    arguments += ["--languages", "en,ja", "--corpus", str(corpus)]
    assert cli.main([*arguments, "--formats", "huggingface", "open_clip"]) == 0
    report = json.loads(capsys.readouterr().out)["vocabulary"]
    num_removed = report["rows_before"] - report["rows_after"]
    assert num_removed > 0
    assert report["parameters_before"] - report["parameters_after"] == report["width"] * num_removed
    assert report["texts_proven"] == len(texts)
    for name in ("huggingface", "open_clip"):
        actual = worldclip.load(out / name, device="cpu").encode_text(texts)
        np.testing.assert_allclose(actual, whole.encode_text(texts), atol=1e-6)
    card = (out / "huggingface" / "README.md").read_text(encoding="utf-8")
    assert f"{report['rows_after']:,} of {report['rows_before']:,} token rows" in card
    assert "\n- ja\n" in card


def test_special_tokens_keep_their_roles_with_new_ids(whole):
    pruned, _ = prune_vocabulary.prune(whole, ["a red apple"])
    old, new = whole.tokenizer.hf, pruned.tokenizer.hf
    for name in ("bos", "eos", "pad", "unk", "mask"):
        assert getattr(new, f"{name}_token") == getattr(old, f"{name}_token")
    assert new.mask_token_id == len(new) - 1
    tokens = pruned.tokenizer.encode(["a red apple </s>"])
    assert tokens.ids[0] == new.bos_token_id
    assert (tokens.ids == new.eos_token_id).sum() == 1
    assert pruned.model.config.text_config.eos_token_id == new.eos_token_id
    assert pruned.model.config.text_config.bos_token_id == new.bos_token_id == 0


def test_unknown_characters_in_the_corpus_are_segmented_as_before():
    """The penalty of an unknown character depends on the lowest score of all pieces, so that this piece stays.

    Without `zz` the penalty of `h` is so low that `abcdefg` and an unknown `h` are likelier than four pairs.
    """
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    pieces = [*((name, 0.0) for name in names.values()), *((pair, -9.0) for pair in ("ab", "cd", "ef", "gh"))]
    pipeline = Pipeline(models.Unigram([*pieces, ("abcdefg", -1.0), ("zz", -100.0), ("yy", -50.0)], unk_id=3))
    pipeline.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    tokenizer = tokenizer_of(pipeline, 32, names)
    model = create_model(model_config(TINY, tokenizer), seed=0).eval()
    clip = Clip(TorchBackend(model), tokenizer, image_processor(32))
    pruned, report = prune_vocabulary.prune(clip, ["abcdefgh", "abcdefg"])
    assert (report["texts_proven"], report["rows_before"], report["rows_after"]) == (2, 11, 10)  # yy is gone
    assert len(pruned.tokenizer.encode(["abcdefgh"]).ids) == 5


@pytest.mark.parametrize(
    ("name", "languages", "corpus", "said"),
    [
        ("mt5-worldwide-s16", ["en"], ["texts.txt"], "is a SiglipTokenizer; only Unigram tokenizers in tokenizer.json"),
        ("worldwide-s16", ["en"], [], "only a run has texts of its own"),
        ("worldwide-s16", ["en"], ["latin_1.txt"], r"latin_1\.txt is not a UTF-8 text file"),
    ],
)
def test_invalid_corpora_and_tokenizers_are_refused(name, languages, corpus, said, published_model, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    (tmp_path / "latin_1.txt").write_bytes(b"caf\xe9")
    config = ExportConfig(languages=tuple(languages), corpus=tuple(str(tmp_path / file) for file in corpus))
    with pytest.raises(UserError, match=said):
        export_model(published_model(f"metaclip-2-{name}"), tmp_path / "out", config)
