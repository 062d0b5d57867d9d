"""7  checkpoint -> a folder that other libraries load, loaded again with them and compared."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from worldclip import formats
from worldclip.errors import UserError, require

if TYPE_CHECKING:
    from worldclip.config import Recipe
    from worldclip.execute import Executor
    from worldclip.inference import Clip

TOLERANCE = 1e-5  # of the embeddings' elements, which are of unit length
PROBE_LABELS = ("a red apple", "ein Hund", "赤いリンゴ", "قطة صغيرة", "แมว", "", "x " * 200)  # any script; empty; cut


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Formats to export to."""

    formats: tuple[Literal["huggingface"], ...] = ("huggingface",)
    """Formats, each a folder RUN/export/<format>."""

    def problems(self) -> list[str]:
        if not self.formats:
            return ["export.formats is empty; there is: huggingface"]
        return []


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    return {"export": {"formats": list(recipe.export.formats)}}


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The checkpoint's weights, and the results that the model card shows."""
    checkpoint = _checkpoint(run_dir)
    results = run_dir / "evaluate" / "results.jsonl"
    return {
        "checkpoint": formats.fingerprint(checkpoint / "model.safetensors", run_dir),
        "results": formats.fingerprint(results, run_dir) if results.exists() else None,
    }


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> dict[str, Any]:
    """Write RUN/export/<format>; returns the report.  Raises UserError where what was written differs when loaded."""
    checkpoint = _checkpoint(run_dir)
    report: dict[str, Any] = {"checkpoint": checkpoint.name, "formats": {}}
    for name in recipe.export.formats:
        folder = run_dir / "export" / name
        report["formats"][name] = export_hugging_face(checkpoint, folder, model_card(recipe, run_dir, checkpoint))
    formats.write_json(run_dir / "export" / "report.json", report)
    formats.write_manifest(
        run_dir / "export", config=relevant_config(recipe), inputs=inputs(recipe, run_dir), counts=report["formats"]
    )
    return report


def export_hugging_face(checkpoint: Path, folder: Path, card: str) -> dict[str, Any]:
    """The checkpoint without its trainer's state, plus a model card, checked before it takes its name.

    Returns the largest difference of embeddings between worldclip and plain transformers, and the size in bytes.
    """
    from worldclip.inference import load

    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(checkpoint, aside, ignore=shutil.ignore_patterns("trainer"))
    formats.write_text(aside / "README.md", card)
    difference = compare_with_transformers(load(checkpoint, device="cpu"), aside)
    if not difference <= TOLERANCE:
        shutil.rmtree(aside)
        raise UserError(
            f"export to {folder}: embeddings of the written model differ by {difference:.1e} when transformers loads "
            f"it, more than {TOLERANCE:.0e}; nothing was exported"
        )
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"max_difference": difference, "bytes": size}


def compare_with_transformers(clip: Clip, folder: Path) -> float:
    """Largest difference of any embedding's element between `clip` and the folder in transformers' own classes."""
    from worldclip.tokenizer import require_transformers

    torch = require("torch", extra="train")
    transformers = require_transformers()
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    labels, images = list(PROBE_LABELS), _probe_images()
    read = processor(text=labels, images=images, return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        found = model(**read)
    texts = np.abs(found.text_embeds.numpy() - clip.encode_text(labels)).max()
    pictures = np.abs(found.image_embeds.numpy() - clip.encode_image(images)).max()
    return float(max(texts, pictures))


def _probe_images() -> list[Any]:
    """Four pictures of other sizes and contents, the same in every process."""
    from PIL import Image

    found = []
    for height, width in ((48, 48), (100, 70), (70, 100), (300, 301)):
        y, x = np.mgrid[0:height, 0:width]
        found.append(Image.fromarray(np.stack([x * 5 % 256, y * 3 % 256, (x + y) % 256], axis=-1).astype(np.uint8)))
    return found


def _checkpoint(run_dir: Path) -> Path:
    from worldclip.train.checkpoint import latest_checkpoint

    found = latest_checkpoint(run_dir)
    if found is None:
        raise UserError(f"{run_dir / 'train'} holds no checkpoint; run first: worldclip train {run_dir}")
    return found


def model_card(recipe: Recipe, run_dir: Path, checkpoint: Path) -> str:
    """README.md of a model: what it is, how to use it, what it was trained on, what it reaches."""
    codes = list(recipe.languages.codes)
    seen = _report(run_dir, "train").get("seen", {})
    curated = _report(run_dir, "curate").get("languages", {})
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [clip, metaclip_2, multilingual, worldclip]",
        *(["language:", *(f"- {code}" for code in codes)] if codes else []),
        "---",
        f"# {run_dir.resolve().name}: a CLIP for {len(codes)} languages",
        "",
        "An image tower and a text tower that put pictures and texts of any of its languages into one space, trained "
        "with [worldclip](https://pypi.org/project/worldclip/), an open implementation of the Meta CLIP 2 recipe "
        "(arXiv:2507.22062).",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'classify = pipeline("zero-shot-image-classification", model="THIS FOLDER")',
        'classify("apple.png", candidate_labels=["red apple", "赤いリンゴ"], hypothesis_template="{}")',
        "```",
        "",
        f"Checkpoint: {checkpoint.name}. Recipe: {recipe.train.samples_seen:,} pairs seen, batch "
        f"{recipe.train.global_batch_size:,}, preset {recipe.train.model.preset}.",
    ]
    if curated:
        lines += ["", "## Training pairs", "", "| language | pairs in | kept | seen |", "|---|---:|---:|---:|"]
        for code, row in sorted(curated.items()):
            pairs_in, pairs_out = row.get("pairs_in", 0), row.get("pairs_out", 0)
            lines.append(f"| {code} | {pairs_in:,} | {pairs_out:,} | {seen.get(code, 0):,} |")
    table, attribution = run_dir / "evaluate" / "table.md", run_dir / "pool" / "README.md"
    if table.exists():
        lines += ["", "## Results", "", table.read_text(encoding="utf-8").strip()]
    if attribution.exists():
        lines += ["", "## Sources of the pool", "", attribution.read_text(encoding="utf-8").strip()]
    return "\n".join([*lines, ""])


def _report(run_dir: Path, stage: str) -> dict[str, Any]:
    path = run_dir / stage / "report.json"
    return formats.read_json(path) if path.exists() else {}
