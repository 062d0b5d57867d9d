"""A model card states licence, sources, and results by language as metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from toy import markdown_rows
from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.settings import to_toml
from worldclip.evaluate.tables import markdown_table
from worldclip.export import model_card

RECALLS = ("image_retrieval_recall@1", "text_retrieval_recall@1")
MEASURED = {"no": (0.183, 0.457), "zh": (0.004, 0.052), "de": (0.25, 0.5)}  # top-1, top-5


def record_of(lang: str, task: str, values: dict[str, float], chance: float, low: float) -> dict:
    return {
        "model": "train/step_000000009",
        "dataset": "tone: held out",
        "lang": lang,
        "task": task,
        "n": 226,
        "metrics": values | {"mean_per_class_recall": 0.1},
        "chance": dict.fromkeys(values, chance),
        "interval_95": {name: [low, 0.9] for name in values},
    }


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """Write a run whose zh is at chance in classification, de at retrieval, and sw is not measured."""
    run = tmp_path / "my_run"
    recipe = {"pool": {"path": "pool"}, "languages": {"codes": ["no"]}, "balance": {"tail_fraction": 0.1}}
    artifacts.write_text(run / "recipe.toml", to_toml(load_recipe(recipe)))
    kept = {lang: {"pairs_in": 100, "pairs_out": 80} for lang in (*MEASURED, "sw")}
    artifacts.write_json(run / "curate" / "report.json", {"languages": kept})
    artifacts.write_json(run / "train" / "report.json", {"seen": {"no": 1200}})
    artifacts.write_json(run / "train" / "config.json", {"schedule": {"global_batch_size": 75_264, "num_steps": 12}})
    artifacts.write_text(run / "pool" / "README.md", "OpenMoji, CC BY-SA 4.0\n")
    records = []
    for lang, (top1, top5) in MEASURED.items():
        low = 0.05 if lang == "zh" else 0.06
        records.append(record_of(lang, "zeroshot_classification", {"acc1": top1, "acc5": top5}, 0.05, low))
        low = 0.0 if lang == "de" else 0.2
        records.append(record_of(lang, "image_text_retrieval", dict.fromkeys(RECALLS, 0.333), 0.1, low))
    artifacts.write_text(layout.results(run), "".join(f"{json.dumps(record)}\n" for record in records))
    artifacts.write_text(layout.results_table(run), markdown_table(records))
    return run


def write_sources(run: Path, **sources: list[dict]) -> None:
    artifacts.write_manifest(run / "metadata", config={}, inputs={}, counts={}, sources=sources, pageviews=[])


def render(run: Path, name: str = "huggingface") -> str:
    card = model_card.of_run(run, run / "train" / "step_000000009")
    return model_card.render(card, name, {"max_difference": 1e-7, "checked": {}, "page_bytes": {"first search": 1}})


def test_hub_reads_results_by_language_with_the_numbers_of_the_table(run_dir):
    text = render(run_dir)
    data = ModelCard(text).data
    assert data.license == "unknown"
    assert data.language == ["de", "no", "sw", "zh"]  # a bare `no` is false in YAML
    table = {
        row[0]: [float(cell) for cell in row[1:]] for row in markdown_rows(text) if row[0] in MEASURED and "." in row[1]
    }
    columns = ("acc1", "acc5", *RECALLS)
    found = {(result.dataset_config, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {
        (lang, name): value for lang, row in table.items() for name, value in zip(columns, row, strict=True)
    }
    assert found["zh", "acc1"] == 0.4
    assert {result.dataset_name for result in data.eval_results if result.dataset_config == "no"} == {
        "tone: held out (no)"
    }


def test_card_names_languages_recipe_pairs_and_licences(run_dir):
    wordnet = {"source": "wordnet", "name": "Princeton WordNet", "licence": "WordNet licence"}
    write_sources(run_dir, no=[wordnet], zh=[{"source": "wordfreq", "licence": "CC BY-SA 4.0"}])
    text = render(run_dir)
    for said in ("# my_run: a CLIP for 4 languages", "OpenMoji, CC BY-SA 4.0", "preset vit_b32"):
        assert said in text
    assert "step_000000009 of 12 steps, 677,376 pairs seen in batches of 75,264" in text
    rows = markdown_rows(text)
    assert ("no", "100", "80", "1,200") in rows
    assert ("wordnet", "Princeton WordNet", "WordNet licence", "no") in rows
    assert ("wordfreq", "", "CC BY-SA 4.0", "zh") in rows


def test_card_of_a_run_without_codes_counts_languages_with_kept_pairs(run_dir):
    recipe = load_recipe({"pool": {"path": "pool"}, "languages": {}, "balance": {"tail_fraction": 0.1}})
    artifacts.write_text(run_dir / "recipe.toml", to_toml(recipe))
    write_sources(run_dir, sw=[{"source": "list", "path": "sw.parquet", "licence": "CC BY 4.0"}])
    text = render(run_dir)
    assert "# my_run: a CLIP for 4 languages" in text
    assert ("list", "sw.parquet", "CC BY 4.0", "sw") in markdown_rows(text)


def test_card_of_a_run_without_results_has_none_as_metadata(run_dir):
    layout.results(run_dir).unlink()
    text = render(run_dir)
    assert ModelCard(text).data.eval_results is None
    assert any(line.startswith("Intended use: ") for line in text.splitlines())


def test_cards_of_pages_have_no_results_as_metadata(run_dir):
    assert "model-index" not in render(run_dir, "web")


@pytest.mark.parametrize("name", model_card.LIBRARIES)
def test_front_matter_of_every_format_is_yaml_that_the_hub_takes(name, run_dir):
    data = ModelCard(render(run_dir, name)).data
    assert data.license == "unknown"
    assert data.library_name == model_card.LIBRARIES[name]


def test_corrupt_results_are_named_by_their_line(run_dir):
    with layout.results(run_dir).open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    with pytest.raises(UserError, match=r"results\.jsonl:7 is not a record"):
        render(run_dir)
