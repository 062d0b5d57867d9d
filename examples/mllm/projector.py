"""The lines between a worldclip image tower and a language model, as LLaVA has them (arXiv:2310.03744).

    worldclip export runs/emoji
    python examples/mllm/projector.py runs/emoji/export/huggingface apple.png

B images, P patches, W the tower's width, H the language model's width.
"""

from __future__ import annotations

import sys

import torch
from PIL import Image
from transformers import AutoImageProcessor, MetaClip2VisionModel


class Projector(torch.nn.Sequential):
    """(B, P, W) patch features -> (B, P, H): visual tokens that stand among the embeddings of words."""

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__(
            torch.nn.Linear(vision_width, language_width),
            torch.nn.GELU(),
            torch.nn.Linear(language_width, language_width),
        )


@torch.no_grad()
def patch_features(tower: MetaClip2VisionModel, pixels_B3SS: torch.Tensor) -> torch.Tensor:
    """(B, P, W): the block before the last (the last serves the class token), without the class token."""
    return tower(pixel_values=pixels_B3SS, output_hidden_states=True).hidden_states[-2][:, 1:]


def insert(words_LH: torch.Tensor, visual_PH: torch.Tensor, place: int) -> torch.Tensor:
    """(L + P - 1, H): the prompt's embeddings with the visual tokens in place of the image's one token."""
    return torch.cat([words_LH[:place], visual_PH, words_LH[place + 1 :]])


def main(folder: str, image: str, language_width: int = 64) -> None:
    tower = MetaClip2VisionModel.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images=Image.open(image), return_tensors="pt")["pixel_values"]
    projector = Projector(tower.config.hidden_size, language_width)
    visual = projector(patch_features(tower, pixels))  # trained first, alone, on captions; then with the language model
    prompt = torch.zeros(10, language_width)  # the language model's own embeddings of "USER: <image> What is this?"
    print(f"{visual.shape[1]} visual tokens of {visual.shape[2]}; the prompt has {len(insert(prompt, visual[0], 2))}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
