"""Write the table of names of a folder of ImageNet's classes (n01440764, ...) from Babel-ImageNet, and its templates.

    worldclip fetch dataset babel_imagenet --out data
    python names_of_imagenet.py PHOTOS data/babel_imagenet names.csv templates.json

Languages are our codes, which are Wikipedia's; English names are OpenAI's.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from worldclip.evaluate.datasets.common.class_names import imagenet_index, imagenet_names
from worldclip.language.table import by_code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("babel", type=Path)
    parser.add_argument("names", type=Path)
    parser.add_argument("templates", type=Path)
    given = parser.parse_args()
    index = imagenet_index()
    class_of = {index[path.name]: path.name for path in sorted(given.photos.iterdir()) if path.name in index}
    openai = imagenet_names()
    rows = [(class_of[position], "en", openai.classes[position][0]) for position in sorted(class_of)]
    labels = json.loads((given.babel / "babel_imagenet-298.json").read_text(encoding="utf-8"))
    known_codes = by_code()
    for babel_code, (positions, names) in labels.items():
        lang = babel_code.lower()
        if lang == "en" or lang not in known_codes:
            continue
        for position, name in zip(positions, names, strict=True):
            if position in class_of:
                rows.append((class_of[position], lang, name))
    with open(given.names, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "lang", "name"))
        writer.writerows(rows)
    prompts = json.loads((given.babel / "nllb_dist13b_prompts.json").read_text(encoding="utf-8"))
    templates = {babel_code.lower(): sentences for babel_code, sentences in prompts.items()}
    templates["en"] = openai.templates
    given.templates.write_text(json.dumps(templates, ensure_ascii=False), encoding="utf-8")
    langs = {lang for _, lang, _ in rows}
    print(f"{given.names}: {len(rows):,} names of {len(class_of):,} classes in {len(langs):,} languages")


if __name__ == "__main__":
    main()
