"""README.md of an exported model: what it is, how to use it, what it was trained on, what it reaches, whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core import artifacts

if TYPE_CHECKING:
    from worldclip.config import Recipe

LIBRARIES = {
    "huggingface": "transformers",
    "open_clip": "open_clip",
    "timm": "timm",
    "onnx": "transformers.js",
    "vision": "transformers",
}
TASKS = {"timm": "image-feature-extraction", "vision": "image-feature-extraction"}
_OURS = "in the form of worldclip, an open implementation of the Meta CLIP 2 recipe (arXiv:2507.22062)."
WHAT = {
    "huggingface": "Two towers that put pictures and texts of any of its languages into one space, " + _OURS,
    "timm": "The image tower of a CLIP, its projection as the head, " + _OURS,
    "vision": "The image tower of a CLIP, without its projection, for the patch features that MLLMs read, " + _OURS,
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
    "vision": [
        "from transformers import MetaClip2VisionModel",
        "",
        'tower = MetaClip2VisionModel.from_pretrained("THIS FOLDER")',
        "patches = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]",
    ],
}


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says beside its format's own lines."""

    title: str
    languages: Sequence[str]
    body: Sequence[str] = field(default_factory=tuple)


def render(card: Card, name: str, report: dict[str, Any]) -> str:
    """The whole README.md of the export `name` (a format, or `vision`); report: what its check measured."""
    lines = [
        "---",
        f"library_name: {LIBRARIES[name]}",
        f"pipeline_tag: {TASKS.get(name, 'zero-shot-image-classification')}",
        "tags: [clip, metaclip_2, multilingual, worldclip]",
        *(["language:", *(f"- {code}" for code in card.languages)] if card.languages else []),
        "---",
        f"# {card.title}",
        "",
        WHAT.get(name, WHAT["huggingface"]),
        "",
        "```python",
        *USE[name],
        "```",
        "",
        _checked(name, report),
        *card.body,
    ]
    return "\n".join([*lines, ""])


def _checked(name: str, report: dict[str, Any]) -> str:
    if name == "onnx":
        found = ", ".join(
            f"{precision}: {'largest difference' if precision == 'fp32' else 'smallest cosine'} {value:.2g}"
            for precision, value in report["checked"].items()
        )
        return f"Checked against the source model in onnxruntime ({found})."
    return (
        f"Checked against the source model in {LIBRARIES[name]}: embeddings differ by at most "
        f"{report['max_difference']:.1e} in any element."
    )


def of_run(recipe: Recipe, run_dir: Path, checkpoint: Path) -> Card:
    """Recipe, pairs by language, results, licences of a run."""
    codes = list(recipe.languages.codes)
    body = [
        "",
        "## Recipe",
        "",
        f"Checkpoint: {checkpoint.name}. Recipe: {recipe.train.samples_seen:,} pairs seen, batch "
        f"{recipe.train.global_batch_size:,}, preset {recipe.train.model.preset}; matching by the profile "
        f"`{recipe.match.profile}`, balance by the rule `{recipe.balance.rule}`. The whole recipe is in `recipe.toml`.",
        *_pairs(run_dir),
    ]
    table, attribution = run_dir / "evaluate" / "table.md", run_dir / "pool" / "README.md"
    if table.exists():
        body += ["", "## Results", "", table.read_text(encoding="utf-8").strip()]
    body += _licences(run_dir)
    if attribution.exists():
        body += ["", "## Sources of the pool", "", attribution.read_text(encoding="utf-8").strip()]
    return Card(f"{run_dir.resolve().name}: a CLIP for {len(codes)} languages", codes, body)


def of_model(source: str, layout: str) -> Card:
    """What is known of a model that no run of ours made: where it came from."""
    body = [
        "",
        "## Source",
        "",
        f"Converted from `{source}` ({layout}). Its languages, its training data and its licence are its publisher's: "
        "see there before you use it.",
    ]
    return Card(f"{Path(source).name}, converted", (), body)


def _pairs(run_dir: Path) -> list[str]:
    seen = _report(run_dir, "train").get("seen", {})
    curated = _report(run_dir, "curate").get("languages", {})
    if not curated:
        return []
    lines = ["", "## Training pairs", "", "| language | pairs in | kept | seen |", "|---|---:|---:|---:|"]
    for code, row in sorted(curated.items()):
        pairs_in, pairs_out = row.get("pairs_in", 0), row.get("pairs_out", 0)
        lines.append(f"| {code} | {pairs_in:,} | {pairs_out:,} | {seen.get(code, 0):,} |")
    return lines


def _licences(run_dir: Path) -> list[str]:
    """Each kind of metadata source with its licence and the languages that use it."""
    manifest = artifacts.read_manifest(run_dir / "metadata") or {}
    users: dict[tuple[str, str], set[str]] = {}
    for code, sources in manifest.get("sources", {}).items():
        for source in sources:
            name = source.get("name") or source["source"]
            users.setdefault((name, source["licence"]), set()).add(code)
    for views in manifest.get("pageviews", []):
        users.setdefault(("page views", views["licence"]), set()).add("all")
    if not users:
        return []
    lines = ["", "## Sources of the metadata", "", "| source | licence | languages |", "|---|---|---|"]
    return lines + [
        f"| {name} | {licence} | {', '.join(sorted(codes))} |" for (name, licence), codes in sorted(users.items())
    ]


def _report(run_dir: Path, stage: str) -> dict[str, Any]:
    path = run_dir / stage / "report.json"
    return artifacts.read_json(path) if path.exists() else {}
