"""Load CLIPs of other families: whatever transformers or open_clip builds with an image and a text tower.

They embed, classify, search, are evaluated, filter pools and teach; they are not exported or trained further, since
those need the family's own layout.  Nothing of a repository's own code runs.

B a batch, D embed_dim, S image side, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError, require
from worldclip.model.clip import pick_device
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.inference import Clip
from worldclip.model.preprocess import PerImage, Preprocess, per_channel
from worldclip.model.special_strings import SpecialStrings, stages_of
from worldclip.model.tokenizer import Tokens, load_hugging_face, require_transformers
from worldclip.model.weights import library_faults

if TYPE_CHECKING:
    import torch

# model_type -> the class of transformers.  SigLIP 2 with a fixed size is `siglip`; `siglip2` reads patches of any size.
FAMILIES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "altclip": "AltCLIPModel",
    "chinese_clip": "ChineseCLIPModel",
}
OLD_BUFFER = "position_ids"  # older transformers saved it
TOKENIZER_ARGUMENTS = ("clean", "strip_sep_token", "language", "context_length", "reduction_mask")  # open_clip's own
# SigLIP 2 lowers texts' case before Gemma's tokenizer, which does not (arXiv:2502.14786, section 2.1).  Its folders
# state one of these classes: Siglip2Tokenizer, of transformers from 5.0 on, does it itself.
GEMMA = ("GemmaTokenizer", "Siglip2Tokenizer")
PADDED = ("siglip",)  # trained on texts that are padded to the whole context, without a mask


@dataclass(frozen=True, slots=True)
class OtherTokenizer:
    """A tokenizer of another family, with worldclip's rule that special strings in a text stay text."""

    to_ids: Callable[[list[str]], list[list[int]]]
    """Texts -> ids, truncated to the context, special tokens added."""
    pad_id: int
    context_length: int
    specials: SpecialStrings
    nllb: Any = None
    """The tokenizer of transformers if it writes the token of one language for all texts (evaluate/nllb.py)."""

    def encode(self, texts: Any) -> Tokens:
        """Tokenise texts to at most context_length ids each."""
        with library_faults("the tokenizer refuses the texts", "give others"):
            rows = self.to_ids([self.specials.break_in(text) for text in texts]) if len(texts) else []
        return Tokens.of(rows, self.pad_id)


@dataclass(frozen=True, slots=True)
class OtherBackend:
    """The towers of another family."""

    model: Any
    embed_dim: int
    run_images: Callable[[torch.Tensor], torch.Tensor]
    """Map normalised pixels to features."""
    run_texts: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Map padded ids and their mask to features."""
    padded_length: int | None = None
    """Length to which every text is padded; None: that of its chunk."""
    pads_left: bool = False
    is_causal: bool = False
    """Whether the text tower has the blocks of Meta CLIP 2, as OpenAI's.  The last token is its feature: no padding."""

    @property
    def logit_scale(self) -> float:
        return math.exp(float(self.model.logit_scale.detach()))

    def encode_pixels(self, pixels_B3SS: torch.Tensor) -> np.ndarray:
        return _unit(self.model, self.run_images, pixels_B3SS)

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        """Return (B, D) float32 of unit length; texts run in chunks of similar length."""
        import torch

        if self.is_causal:
            from worldclip.model.forward import embed_tokens

            return embed_tokens(self.model, tokens, num_chunks).cpu().numpy()
        features_BD = np.zeros((len(tokens), self.embed_dim), np.float32)
        for rows in tokens.chunks_by_length(num_chunks):
            ids_BT = tokens.padded(rows)
            width = max(ids_BT.shape[1], self.padded_length or 0)
            ids_BT = np.pad(ids_BT, ((0, 0), (0, width - ids_BT.shape[1])), constant_values=tokens.pad_id)
            mask_BT = np.arange(width) < tokens.lengths[rows][:, None]
            if self.pads_left:  # such towers take no mask
                for ids_T, length in zip(ids_BT, tokens.lengths[rows], strict=True):
                    ids_T[:] = np.roll(ids_T, width - length)
            features_BD[rows] = _unit(self.model, self.run_texts, torch.from_numpy(ids_BT), torch.from_numpy(mask_BT))
        return features_BD


def _unit(model: Any, tower: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> np.ndarray:
    """Return a tower's features of unit length, float32; inputs go to the model's device, floats to its dtype."""
    import torch

    parameter = next(model.parameters())
    moved = []
    for tensor in inputs:
        dtype = parameter.dtype if tensor.is_floating_point() else None
        moved.append(tensor.to(parameter.device, dtype))
    with torch.inference_mode():
        features = tower(*moved).float()
        return torch.nn.functional.normalize(features, dim=-1).cpu().numpy()


def read_transformers(folder: Path, config: Any, options: LoadOptions) -> Clip:
    """Load a Hugging Face folder of one of FAMILIES.  Raises UserError for an incomplete folder."""
    transformers = require_transformers()
    model = read_whole(getattr(transformers, FAMILIES[config.model_type]), folder, config).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    hf = load_hugging_face(options.tokenizer or folder)
    context_length = min(config.text_config.max_position_embeddings, hf.model_max_length)
    embed_dim = _pooled(model.get_text_features(**hf("a", return_tensors="pt"))).shape[-1]
    tokenizer_classes = (type(hf).__name__, str(hf.init_kwargs.get("tokenizer_class", "")))
    is_gemma = any(name.removesuffix("Fast") in GEMMA for name in tokenizer_classes)
    if config.model_type == "siglip" and is_gemma:  # SigLIP 2; the first SigLIP has a T5 vocabulary
        _lower_case(hf)
    is_padded = config.model_type in PADDED
    is_clip = config.model_type == "clip"

    def run_texts(ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        mask = None if is_padded else mask_BT.long()
        return _pooled(model.get_text_features(input_ids=ids_BT, attention_mask=mask))

    def run_images(pixels_B3SS: torch.Tensor) -> torch.Tensor:
        if is_clip:  # its blocks are those of Meta CLIP 2
            from worldclip.model.forward import embed_pixels

            return embed_pixels(model, pixels_B3SS)
        return _pooled(model.get_image_features(pixel_values=pixels_B3SS))

    backend = OtherBackend(
        model.to(pick_device(options.device)),
        embed_dim,
        run_images,
        run_texts,
        context_length if is_padded else None,
        pads_left=is_padded and hf.padding_side == "left",
        is_causal=is_clip and _pools_last_token(config.text_config, hf),
    )
    return Clip(backend, tokenizer_of(hf, context_length), processor)


def read_whole(model_class: Any, folder: Path, config: Any, *, is_strict: bool = False) -> Any:
    """Return transformers' model of a folder in float32.

    Raises UserError where tensors are missing or of another size: transformers would draw them at random.  is_strict:
    also where there are others, as of further layers.
    """
    model, report = model_class.from_pretrained(folder, config=config, dtype="float32", output_loading_info=True)
    lost = list(report["missing_keys"])
    if is_strict:
        lost += report["unexpected_keys"]
    lost = sorted(name for name in lost if not name.endswith(OLD_BUFFER))
    lost += sorted(str(name) for name in report["mismatched_keys"])
    if lost:
        raise UserError(
            f"{folder}: {len(lost)} tensors are missing, unknown or of another size, such as {lost[0]}; copy or "
            "download it whole"
        )
    return model


def _pooled(output: Any) -> torch.Tensor:
    """Return the features: transformers 5 wraps them in an output, version 4 does not."""
    features: torch.Tensor = getattr(output, "pooler_output", output)
    return features


def _pools_last_token(text_config: Any, hf: Any) -> bool:
    """Return whether the token that becomes a text's feature is always its last one.

    transformers takes the first end token; where that is 2, as in OpenAI's folders, the first one of the largest id.
    """
    end = text_config.eos_token_id
    if end == 2:
        end = text_config.vocab_size - 1
    return bool(hf("a")["input_ids"][-1] == end)


def _lower_case(hf: Any) -> None:
    """Let a tokenizer lower texts' case first, unless it does."""
    from tokenizers import normalizers

    normaliser = hf.backend_tokenizer.normalizer
    if normaliser is not None and '"Lowercase"' in normaliser.__getstate__().decode():
        return
    parts = [normalizers.Lowercase()]
    if normaliser is not None:
        parts.append(normaliser)
    hf.backend_tokenizer.normalizer = normalizers.Sequence(parts)


def tokenizer_of(hf: Any, context_length: int) -> OtherTokenizer:
    """Return a tokenizer of transformers as ours.  Raises UserError for one without a pad token."""
    if hf.pad_token_id is None:
        raise UserError("the tokenizer has no pad token; set one in its tokenizer_config.json")
    special_ids = set(hf.all_special_ids) - {hf.unk_token_id}

    def to_ids(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = hf(texts, truncation=True, max_length=context_length)["input_ids"]
        return ids

    def count(text: str) -> int:
        return sum(token in special_ids for token in to_ids([text])[0])

    specials = SpecialStrings(
        map(str, hf.all_special_tokens), stages_of(hf), gives_special=lambda text: count(text) > count("a")
    )
    nllb = hf if hasattr(hf, "set_src_lang_special_tokens") else None
    return OtherTokenizer(to_ids, hf.pad_token_id, context_length, specials, nllb)


def read_open_clip(
    source: str | Path, model_cfg: Mapping[str, Any], state: Mapping[str, torch.Tensor], options: LoadOptions
) -> Clip:
    """Load an open_clip model of any architecture.

    source: the name of one of its configurations, or the path of a configuration file.  model_cfg: that configuration.
    state: its tensors.  Raises UserError where they are not those of the configuration.
    """
    import torch

    open_clip = require("open_clip", extra="export")
    text_cfg = model_cfg["text_cfg"]
    _refuse_foreign_code(model_cfg, source)
    name = str(source)
    if Path(source).is_file() and Path(source).name == "open_clip_config.json":
        name = f"local-dir:{Path(source).parent}"
    elif Path(source).is_file():
        open_clip.add_model_config(Path(source))
        name = Path(source).stem
    model = open_clip.create_model(name, load_weights=False, pretrained_text=False).eval()
    keys = model.state_dict().keys()
    model.load_state_dict({key: state[key] for key in state if key in keys or not key.endswith(OLD_BUFFER)})
    tokenizer = _open_clip_tokenizer(open_clip, name, text_cfg, options.tokenizer)
    settings = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(settings, is_train=False)
    embed_dim = model.encode_text(torch.zeros(1, tokenizer.context_length, dtype=torch.int64)).shape[-1]
    size = settings.size if isinstance(settings.size, int) else max(settings.size)  # one number of a ResNet
    interpolation = "bilinear" if settings.interpolation == "bilinear" else "bicubic"  # of `random` too
    facts = Preprocess(size, settings.resize_mode, per_channel(settings.mean), per_channel(settings.std), interpolation)
    backend = OtherBackend(
        model.to(pick_device(options.device)),
        embed_dim,
        model.encode_image,
        lambda ids_BT, mask_BT: model.encode_text(ids_BT),
        tokenizer.context_length,
    )
    return Clip(backend, tokenizer, PerImage(transform, facts))


def _refuse_foreign_code(model_cfg: Mapping[str, Any], source: str | Path) -> None:
    """Raise UserError where open_clip would let transformers or timm run or fetch what the folder names.

    timm would fetch an image tower from the hub, or read it from another folder.  open_clip passes tokenizer_kwargs on,
    trust_remote_code among them, and builds a text tower without a word on trust: transformers then asks whoever sits
    at the terminal.
    """
    name = model_cfg["vision_cfg"].get("timm_model_name")
    if name is not None:
        timm = require("timm", extra="export")
        if not (isinstance(name, str) and timm.is_model(name)):
            raise UserError(
                f"{source}: vision_cfg.timm_model_name = {name!r:.100} is no architecture of timm, and is refused"
            )
    text_cfg = model_cfg["text_cfg"]
    arguments = text_cfg.get("tokenizer_kwargs") or {}
    refused = [str(key) for key in arguments if key not in TOKENIZER_ARGUMENTS]
    if refused:
        raise UserError(
            f"{source}: text_cfg has tokenizer_kwargs {', '.join(refused)}; known: {', '.join(TOKENIZER_ARGUMENTS)}"
        )
    tower = text_cfg.get("hf_model_name")
    if tower is None:
        return
    config = require_transformers().AutoConfig.from_pretrained(tower, trust_remote_code=False)
    if hasattr(config, "auto_map"):
        raise UserError(f"{source}: text_cfg.hf_model_name = {tower!r} names code of its own, and is refused")


def _open_clip_tokenizer(open_clip: Any, source: str, text_cfg: Mapping[str, Any], name: str | None) -> OtherTokenizer:
    """Return open_clip's tokenizer of a model, or the Hugging Face one that `name` means."""
    is_hugging_face = bool(text_cfg.get("hf_tokenizer_name"))
    trust = {"trust_remote_code": False} if is_hugging_face else {}
    tokenizer = open_clip.get_tokenizer(source, **trust)
    if name is not None:
        length = tokenizer.context_length
        tokenizer = open_clip.tokenizer.HFTokenizer(name, context_length=length, trust_remote_code=False)
    hf = getattr(tokenizer, "tokenizer", None)
    if hf is not None:
        names = hf.all_special_tokens
    else:
        names = [tokenizer.decoder[token] for token in tokenizer.all_special_ids]
    cleaning = (tokenizer.clean_fn,) if hasattr(tokenizer, "clean_fn") else ()  # SigLIP's deletes all punctuation
    specials = SpecialStrings(map(str, names), (*cleaning, *stages_of(hf)), is_decoding=True)
    nllb = hf if hasattr(hf, "set_src_lang_special_tokens") else None
    return OtherTokenizer(lambda texts: tokenizer(texts).tolist(), 0, tokenizer.context_length, specials, nllb)
