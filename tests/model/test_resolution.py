"""Positions at another resolution, against open_clip's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from worldclip.model.resolution import patches_per_side, resize_positions


@pytest.mark.parametrize(("side", "own_side"), [(27, 16), (16, 27), (12, 7), (7, 7)])
def test_positions_are_those_of_open_clip(side: int, own_side: int) -> None:
    model = pytest.importorskip("open_clip.model")
    positions_PW = torch.randn(1 + own_side**2, 24, generator=torch.Generator().manual_seed(1))
    weights = {"visual.positional_embedding": positions_PW.clone()}
    tower = SimpleNamespace(grid_size=(side, side), positional_embedding=torch.zeros(1 + side**2, 24))
    model.resize_pos_embed(weights, SimpleNamespace(visual=tower))
    own = resize_positions(positions_PW, side)
    torch.testing.assert_close(own, weights["visual.positional_embedding"], rtol=0, atol=1e-6)
    assert torch.equal(own[0], positions_PW[0])


def test_only_a_class_token_and_a_square_can_be_resized() -> None:
    assert patches_per_side(torch.zeros(50, 4)) == 7
    assert patches_per_side(torch.zeros(49, 4)) is None
    with pytest.raises(ValueError, match="49 positions are not a class token and a square"):
        resize_positions(torch.zeros(49, 4), 5)
