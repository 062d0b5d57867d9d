"""What each radius finds: planted copies of real images by kind of change, and CIFAR-10's own train-test duplicates.

    python benchmarks/dedup_quality.py ../shared/data [--num-images 300] [--pairs PNG] [--model MODEL]

Recall: copies within the radius of their own original.  Precision: of all (copy, original) pairs within the radius,
those that belong together; so it falls with every look-alike in the set.  Prints Markdown; --pairs draws CIFAR-10's
nearest train-test pairs to look at.  --model: a run, folder or hub id, whose embeddings' signs (`hash = "embedding"`)
are compared too.
"""

from __future__ import annotations

import argparse
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from worldclip.check.hashing import HashKind, scan_image, scan_images

RADII = (0, 2, 4, 6, 8, 10)

Change = Callable[[Image.Image], Image.Image]


def encoded(image: Image.Image, quality: int = 95) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def resized(share: float) -> Change:
    return lambda image: image.resize((max(8, round(image.width * share)), max(8, round(image.height * share))))


def cropped(share: float) -> Change:
    """The middle `share` of each side."""

    def change(image: Image.Image) -> Image.Image:
        x, y = image.width * (1 - share) / 2, image.height * (1 - share) / 2
        return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))

    return change


def tinted(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * (1.0, 0.85, 0.7)).astype(np.uint8))


def brighter(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * 0.75 + 50).clip(0, 255).astype(np.uint8))


def captioned(image: Image.Image) -> Image.Image:
    """White letters on a black bar over the lowest eighth."""
    copy = image.copy()
    top = round(image.height * 7 / 8)
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, top, image.width, image.height), fill=(0, 0, 0))
    draw.text((image.width // 20, top), "a caption 2026", fill=(255, 255, 255), font_size=max(4, image.height // 9))
    return copy


def framed(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, round(0.05 * min(image.size)), (255, 255, 255))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG, quality 75": lambda image: encoded(image, quality=75),
    "JPEG, quality 30": lambda image: encoded(image, quality=30),
    "half the size": lambda image: encoded(resized(0.5)(image)),
    "twice the size": lambda image: encoded(resized(2)(image)),
    "stretched by 1.3": lambda image: encoded(image.resize((round(image.width * 1.3), image.height))),
    "blurred": lambda image: encoded(image.filter(ImageFilter.GaussianBlur(min(image.size) / 100))),
    "grey": lambda image: encoded(image.convert("L")),
    "tinted": lambda image: encoded(tinted(image)),
    "brighter, less contrast": lambda image: encoded(brighter(image)),
    "captioned": lambda image: encoded(captioned(image)),
    "white frame of 5%": lambda image: encoded(framed(image)),
    "cropped to 98%": lambda image: encoded(cropped(0.98)(image)),
    "cropped to 95%": lambda image: encoded(cropped(0.95)(image)),
    "cropped to 90%": lambda image: encoded(cropped(0.9)(image)),
    "turned by 2 degrees": lambda image: encoded(image.rotate(2, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
}


def iter_images(path: Path) -> Iterator[tuple[str, bytes]]:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]


Hash = Callable[[list[bytes]], list[int]]
"""64 bits of each image."""


def hashes_of(contents: list[bytes]) -> list[int]:
    hashes = [scan_image(content).hash for content in contents]
    assert None not in hashes, "a photograph is not blank"
    return cast(list[int], hashes)


def embedding_hash(model: str) -> Hash:
    kind = HashKind(name="embedding", model=model)
    return lambda contents: [cast(int, facts.hash) for facts in scan_images(contents, kind)]


def table_of_changes(images: list[bytes], hashes: dict[str, Hash]) -> list[str]:
    """One table for the check's own hash, and a row for the mean over all changes of each of the others."""
    opened = [Image.open(io.BytesIO(content)).convert("RGB") for content in images]
    copies = {name: [change(image) for image in opened] for name, change in CHANGES.items()}
    lines = ["| change | " + " | ".join(f"r = {radius}" for radius in RADII) + " |", "|---" * (len(RADII) + 1) + "|"]
    means = []
    for hash_name, hash_images in hashes.items():
        originals = np.array(hash_images(images), np.uint64)
        rows = []
        for name, changed in copies.items():
            found = np.array(hash_images(changed), np.uint64)
            distance = np.bitwise_count(found[:, None] ^ originals[None, :])
            own = np.diagonal(distance)
            recall = np.array([(own <= radius).mean() for radius in RADII])
            near = np.array([(distance <= radius).sum() for radius in RADII])
            precision = np.array([(own <= radius).sum() for radius in RADII]) / np.maximum(near, 1)
            rows.append((name, recall, np.where(near > 0, precision, 1.0)))
        if hash_name == "ours":
            lines += [_row(name, recall, precision) for name, recall, precision in rows]
        without_mirror = rows[:-1]
        mean = [np.mean([row[column] for row in without_mirror], axis=0) for column in (1, 2)]
        means.append(_row(f"**mean without mirrored, {hash_name}**", *mean))
    return [*lines, *means]


def _row(name: str, recall: np.ndarray, precision: np.ndarray) -> str:
    cells = [f"{100 * r:.1f} / {100 * p:.1f}" for r, p in zip(recall, precision, strict=True)]
    return f"| {name} | " + " | ".join(cells) + " |"


def other_hashes() -> dict[str, Hash]:
    import imagehash

    def of(function: Callable[[Image.Image], object]) -> Hash:
        def hash_one(content: bytes) -> int:
            return int(str(function(Image.open(io.BytesIO(content)).convert("RGB"))), 16)

        return lambda contents: [hash_one(content) for content in contents]

    names = {"dhash": imagehash.dhash, "average_hash": imagehash.average_hash, "phash": imagehash.phash}
    return {f"ImageHash {name}": of(function) for name, function in names.items()}


def cifar_pairs(folder: Path, drawing: Path | None) -> list[str]:
    """Test images with a train image near: how many at each distance, and the nearest pairs by name."""
    train = [item for path in sorted(folder.glob("train-*.tar.gz")) for item in iter_images(path)]
    test = [item for path in sorted(folder.glob("test-*.tar")) for item in iter_images(path)]
    hashes = [np.array([scan_image(content).hash or 0 for _, content in part], np.uint64) for part in (train, test)]
    pairs = []
    for n, value in enumerate(hashes[1]):
        distance = np.bitwise_count(hashes[0] ^ value)
        pairs += [(int(distance[at]), n, int(at)) for at in np.flatnonzero(distance <= 8) if value]
    pairs.sort()
    lines = ["| distance | pairs | of the same class |", "|---|---|---|"]
    for d in range(0, 9, 2):
        at_d = [(n, at) for distance, n, at in pairs if distance == d]
        same = sum(class_of(test[n][0]) == class_of(train[at][0]) for n, at in at_d)
        lines.append(f"| {d} | {len(at_d)} | {same} |")
    nearest = [pair for pair in pairs if pair[0] <= 4]
    lines += ["", "| test | train | distance | mean difference of pixels |", "|---|---|---|---|"]
    for distance, n, at in nearest:
        difference = np.abs(pixels_of(test[n][1]) - pixels_of(train[at][1])).mean()
        lines.append(f"| {test[n][0]} | {train[at][0]} | {distance} | {difference:.1f} |")
    if drawing is not None:
        draw_pairs(drawing, [(test[n][1], train[at][1]) for _, n, at in nearest])
    return lines


def class_of(name: str) -> str:
    return name.split("_")[1]


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(float)


def draw_pairs(path: Path, pairs: list[tuple[bytes, bytes]]) -> None:
    columns, side = 12, 64
    sheet = Image.new("RGB", (columns * (2 * side + 8), -(-len(pairs) // columns) * (side + 8)), (255, 255, 255))
    for n, pair in enumerate(pairs):
        for half, content in enumerate(pair):
            image = Image.open(io.BytesIO(content)).convert("RGB").resize((side, side))
            sheet.paste(image, (n % columns * (2 * side + 8) + half * side, n // columns * (side + 8)))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--num-images", type=int, default=300, help="images of each set that copies are made of")
    arguments = parser.parse_args()
    imagenet = [content for _, content in iter_images(arguments.data / "imagenet_samples/samples-000000.tar")]
    imagenet = imagenet[:: max(1, len(imagenet) // arguments.num_images)]
    cifar = [content for _, content in iter_images(arguments.data / "cifar10/test-000000.tar")][: arguments.num_images]
    hashes: dict[str, Hash] = {"ours": hashes_of, **other_hashes()}
    if arguments.model:
        hashes["embedding"] = embedding_hash(arguments.model)
    for name, images in (("ImageNet photographs", imagenet), ("CIFAR-10 images of 32 px", cifar)):
        print(f"## {len(images):,} {name}: recall / precision in %\n")
        print("\n".join(table_of_changes(images, hashes)), flush=True)
        print()
    print("## CIFAR-10: test images near a train image\n")
    print("\n".join(cifar_pairs(arguments.data / "cifar10", arguments.pairs)))


if __name__ == "__main__":
    main()
