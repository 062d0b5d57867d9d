"""The command `classify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from worldclip.core.command import Command
from worldclip.core.console import note
from worldclip.core.errors import UserError
from worldclip.core.marks import Commas, Metavar
from worldclip.model.inference import read_templates
from worldclip.model.load import load


@Command
def classify(
    model: str,
    images: Sequence[str],
    *,
    labels: Sequence[str],
    templates: Sequence[str] = (),
    prompts: Annotated[str | None, Metavar("JSON")] = None,
    langs: Annotated[Sequence[str], Commas()] = (),
    allow_urls: bool = False,
    layout: str | None = None,
    arch: str | None = None,
    tokenizer: str | None = None,
    precision: str | None = None,
    device: str = "auto",
) -> tuple[Any, str]:
    """Print the probabilities of labels for images.

    images: image files.
    labels: words or sentences to choose from, in any language.
    templates: sentences around a label, {} is the label (default: the label alone).
    prompts: JSON file of templates by language, {"de": ["ein Foto von {}", ...], ...}; needs --langs.
    langs: language of all labels, or one per label.
    """
    if prompts is not None and templates:
        raise UserError("--templates and --prompts are both set; set one of them")
    if len(labels) == 1 and "," in labels[0]:
        note(f"--labels {labels[0]!r} is one label; separate several by spaces, in quotes where they hold spaces")
    used = templates or ("{}",) if prompts is None else read_templates(Path(prompts))
    clip = load(model, device, layout=layout, arch=arch, tokenizer=tokenizer, precision=precision)
    codes = langs[0] if len(langs) == 1 else langs or None
    scores = clip.classify(list(images), list(labels), used, codes, allow_urls=allow_urls)
    rows = [dict(zip(labels, map(float, row), strict=True)) for row in scores]
    lines = []
    for image, row in zip(images, rows, strict=True):
        lines.append(image)
        lines += [f"  {share:7.2%}  {label}" for label, share in sorted(row.items(), key=lambda item: -item[1])]
    record = [{"image": image, "probabilities": row} for image, row in zip(images, rows, strict=True)]
    return record, "\n".join(lines)
