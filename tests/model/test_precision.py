from __future__ import annotations

import numpy as np
import pytest
import torch

import worldclip
from programs import python
from worldclip.model import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("value", "expected"), [(0.9, "fp32"), (1.49, "fp32"), (1.5, "bf16"), (4, "bf16")])
def test_auto_is_bfloat16_where_products_gain_enough(value: float, expected: str, monkeypatch) -> None:
    monkeypatch.setattr(precision, "product_gain", lambda width: value)
    assert precision.pick_precision(CPU, 64) == expected


def test_other_devices_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(precision, "product_gain")
    assert precision.pick_precision(torch.device("mps"), 64) == "fp32"
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert precision.pick_precision(torch.device("cuda:0"), 64) == expected


def test_a_processor_without_bfloat16_takes_float32() -> None:
    """Of oneDNN, the library that multiplies; AVX2 has no such instruction."""
    code = (
        "import torch; from worldclip.model.precision import pick_precision; "
        "print(pick_precision(torch.device('cpu'), 512))"
    )
    assert python("-c", code, ONEDNN_MAX_CPU_ISA="AVX2", OMP_NUM_THREADS="1").strip() == "fp32"


@pytest.mark.parametrize(("value", "dtype"), [(1.0, torch.float32), (4.0, torch.bfloat16)])
def test_load_takes_what_auto_picks(toy_run, value: float, dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(precision, "product_gain", lambda width: value)
    clip = worldclip.load(toy_run, device="cpu", precision="auto")
    assert next(clip.model.parameters()).dtype == dtype
    features = clip.encode_text(["simba", "paka"])
    assert features.dtype == np.float32
    plain = worldclip.load(toy_run, device="cpu").encode_text(["simba", "paka"])
    assert (features * plain).sum(1).min() > 0.999
    assert np.array_equal(features, plain) == (dtype == torch.float32)
