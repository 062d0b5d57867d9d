"""Read, write and compare the folders of other libraries: one module per library, all with the same functions."""

from worldclip.model.formats import (
    huggingface_folder,
    onnx_folder,
    open_clip_folder,
    peft_folder,
    timm_folder,
    vision_tower_folder,
)
from worldclip.model.formats.interface import Format, Layout, Writer
from worldclip.plugins import immich

FORMATS: dict[Layout, Format] = {
    "huggingface": huggingface_folder,
    "open_clip": open_clip_folder,
    "timm": timm_folder,
    "onnx": onnx_folder,
    "peft": peft_folder,
}
WRITERS: dict[str, Writer] = {
    "huggingface": huggingface_folder,
    "open_clip": open_clip_folder,
    "timm": timm_folder,
    "onnx": onnx_folder,
    "vision": vision_tower_folder,
    "immich": immich,
}
