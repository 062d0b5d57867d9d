"""README.md of an exported model: what it is, how to use it, training data, results, licences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldclip.core import artifacts, layout
from worldclip.core.job import Record, Report
from worldclip.core.records import read_results
from worldclip.core.settings import read_toml
from worldclip.export import card_results
from worldclip.model.load import hub_id
from worldclip.report.sources import sources_table
from worldclip.report.table import Table, columns_of, text_column, to_markdown

LIBRARIES = {
    "huggingface": "transformers",
    "open_clip": "open_clip",
    "timm": "timm",
    "onnx": "transformers.js",
    "web": "transformers.js",
    "vision": "transformers",
    "immich": "onnxruntime",
    "peft": "peft",
}
TASKS = {"timm": "image-feature-extraction", "vision": "image-feature-extraction"}
_OURS = "exported by worldclip, an open implementation of the Meta CLIP 2 recipe (arXiv:2507.22062)."
WHAT = {
    "huggingface": "A CLIP that embeds images and texts of all its languages in one space, " + _OURS,
    "timm": "The image encoder of a CLIP, with its projection as the head, " + _OURS,
    "web": "A page that runs a CLIP in the browser, "
    + _OURS
    + " Texts in its languages find pictures, a picture finds names; nothing is sent anywhere.",
    "immich": "A CLIP for the photo library immich, "
    + _OURS
    + " Put this folder into the model cache of immich's machine-learning service as `clip/NAME`, where NAME is a "
    "model that immich knows, of as many dimensions.",
    "peft": "LoRA adapters and projections of a CLIP, to be added to the weights that training started from "
    "(`base_model_name_or_path` of `adapter_config.json`, if they are on the hub), " + _OURS,
    "vision": "The image encoder of a CLIP without its projection, for the patch features of multimodal LLMs, " + _OURS,
}
USE = {
    "huggingface": [
        "from transformers import pipeline",
        "",
        'classify = pipeline("zero-shot-image-classification", model="THIS FOLDER")',
        'classify("apple.png", candidate_labels=["red apple", "赤いリンゴ"], hypothesis_template="{}")',
    ],
    "open_clip": [
        "import open_clip",
        "",
        'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:THIS FOLDER")',
        'tokenizer = open_clip.get_tokenizer("local-dir:THIS FOLDER")',
        'texts = model.encode_text(tokenizer(["red apple", "赤いリンゴ"]), normalize=True)',
    ],
    "timm": [
        "import timm",
        "",
        'model = timm.create_model("local-dir:THIS FOLDER", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
    ],
    "onnx": [
        "import worldclip",
        "",
        'clip = worldclip.load("THIS FOLDER", precision="int8")',
        'clip.classify("apple.png", ["red apple", "赤いリンゴ"])',
    ],
    "web": [
        "import functools, http.server",
        "",
        'handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="THIS FOLDER")',
        'http.server.ThreadingHTTPServer(("127.0.0.1", 8000), handler).serve_forever()  # http://127.0.0.1:8000',
    ],
    "immich": [
        "import onnxruntime",
        "",
        'images = onnxruntime.InferenceSession("THIS FOLDER/visual/model.onnx")  # image: (1, 3, S, S) float32',
        'texts = onnxruntime.InferenceSession("THIS FOLDER/textual/model.onnx")  # text: (1, context length) int32',
    ],
    "peft": [
        "from peft import PeftModel",
        "from transformers import AutoModel",
        "",
        'model = PeftModel.from_pretrained(AutoModel.from_pretrained("THE BASE MODEL"), "THIS FOLDER")',
    ],
    "vision": [
        "from transformers import MetaClip2VisionModel",
        "",
        'tower = MetaClip2VisionModel.from_pretrained("THIS FOLDER")',
        "patches = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]",
    ],
}


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says in addition to the lines of its format."""

    title: str
    languages: Sequence[str]
    body: Sequence[str] = field(default_factory=tuple)
    results: Sequence[Record] = ()
    """Records of evaluate; cards of an image tower alone and of pages have none."""


def render(card: Card, name: str, report: Record) -> str:
    """Return README.md of the export `name` (a format, or `vision`); report: what its check measured."""
    checked = f"in {LIBRARIES[name]}"
    if name == "onnx":
        kinds = dict.fromkeys(report["checked"], "smallest cosine") | {"fp32": "largest difference"}
        measured = ", ".join(f"{key}: {kinds[key]} {value:.2g}" for key, value in report["checked"].items())
        checked = f"in onnxruntime ({measured}); `onnx/model*.onnx`, both encoders in one graph, take "
        checked += f"{report['joint_bytes']:,} bytes"
    elif name == "web":
        measured = ", ".join(f"{key}: {value:.2g}" for key, value in report["checked"].items())
        checked = f"in onnxruntime ({measured}); the first search loads {report['page_bytes']['first search']:,} bytes"
    else:
        checked += f": embeddings differ by at most {report['max_difference']:.1e} in any element"
    about_model = [
        f"library_name: {LIBRARIES[name]}",
        f"pipeline_tag: {TASKS.get(name, 'zero-shot-image-classification')}",
        "license: unknown",
        *(card_results.model_index(card.title, card.results) if name not in TASKS else ()),
    ]
    about_space = [f"title: {json.dumps(card.title)}", "sdk: static", "app_file: index.html"]
    lines = [
        "---",
        *(about_space if name == "web" else about_model),
        "tags: [clip, metaclip_2, multilingual, worldclip]",
        *(
            ["language:", *(f"- {json.dumps(code)}" for code in card.languages)]
            if card.languages and name != "web"
            else []
        ),
        "---",
        f"# {card.title}",
        "",
        WHAT.get(name, WHAT["huggingface"]),
        "",
        "```python",
        *USE[name],
        "```",
        "",
        f"Checked against the source model {checked}.",
        *card.body,
    ]
    return "\n".join([*lines, ""])


def of_run(run_dir: Path, checkpoint: Path) -> Card:
    """Return the card of a run: recipe, training pairs by language, results, use, limits, licences."""
    recipe = read_toml(run_dir)
    train, codes = recipe["train"], _languages(run_dir) or recipe["languages"].get("codes", [])
    summary = (
        f"Checkpoint: {checkpoint.name}. Recipe: {train['samples_seen']:,} pairs seen, batch "
        f"{train['global_batch_size']:,}, preset {train['model']['preset']}; matching profile "
        f"`{recipe['match']['profile']}`, balance rule `{recipe['balance']['rule']}`. "
        "The whole recipe is in `recipe.toml`."
    )
    results = read_results(layout.results(run_dir))
    sections = {
        "Recipe": summary,
        "Training pairs": _pairs(run_dir),
        "Results": _read_text(layout.results_table(run_dir)),
        "Use, limits and licence": card_results.limits(results, codes),
        "Sources of the metadata": sources_table(artifacts.read_manifest(run_dir / "metadata") or {}),
        "Sources of the pool": _read_text(layout.attribution(run_dir)),
    }
    body = [line for heading, text in sections.items() if text for line in ("", f"## {heading}", "", text)]
    return Card(f"{run_dir.resolve().name}: a CLIP for {len(codes)} languages", codes, body, results)


def of_model(source: str, layout: str) -> Card:
    """Return the card of a model from elsewhere: its hub id, or the name of its file or folder."""
    origin = hub_id(source) or Path(source).name
    text = (
        f"Converted from `{origin}` ({layout}). Its publisher states its languages, training data, intended use, "
        "limits and licence; check them before use."
    )
    return Card(f"{Path(source).name}, converted", (), ["", "## Source", "", text])


def _languages(run_dir: Path) -> list[str]:
    """Return the languages that the run's pairs are kept in."""
    curated = _read_report(run_dir, "curate").get("languages", {})
    return sorted(lang for lang, row in curated.items() if row.get("pairs_out", 0))


def _pairs(run_dir: Path) -> str:
    """Return pairs in, kept and seen in training, by language."""
    seen = _read_report(run_dir, "train").get("seen", {})
    curated = _read_report(run_dir, "curate").get("languages", {})
    if not curated:
        return ""
    columns = [text_column("language"), *columns_of(("pairs in", "kept", "seen"), "{:,}".format)]
    rows = [
        [lang, row.get("pairs_in", 0), row.get("pairs_out", 0), seen.get(lang, 0)]
        for lang, row in sorted(curated.items())
    ]
    return to_markdown(Table(columns, rows))


def _read_report(run_dir: Path, stage: str) -> Report:
    path = run_dir / stage / "report.json"
    return artifacts.read_json(path) if path.exists() else {}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
