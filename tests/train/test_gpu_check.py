"""The check of a GPU runs on a CPU with reduced models, and makes no number up."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
import torch

from on_ranks import run_on_ranks
from worldclip.train.distributed import ALONE

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_check


@pytest.mark.parametrize("models", [["b32"], pytest.param(["h14", "l14"], marks=pytest.mark.slow)])
def test_reduced_models_run_and_what_a_gpu_alone_shows_is_said_to_be_missing(models, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = gpu_check.check(models, 1, None, ALONE, torch.device("cpu"))
    rows = [line[2:].split(" | ") for line in text.splitlines() if line.endswith(" GiB |")]
    assert [row[0] for row in rows] == [f"{model} ddp" for model in models]
    assert all(row[2:6] == [gpu_check.NOT_ON_CPU] * 4 for row in rows)
    assert all(float(row[1].removesuffix(" ms").replace(",", "")) > 0 for row in rows)
    assert text.count("aten::scaled_dot_product_attention") == len(rows)
    assert text.count("agree") == len(models)
    assert "DIFFER" not in text
    assert not list(tmp_path.glob("gpu_check_*")), "checkpoints are removed"


def test_models_that_do_not_fit_are_listed(monkeypatch):
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB\nmore")

    monkeypatch.setattr(gpu_check, "measure", run_out)
    monkeypatch.setattr(gpu_check, "loss_parity", run_out)
    lines = gpu_check.check(["l14", "b32"], 1, None, ALONE, torch.device("cpu")).splitlines()
    failed = [f"- {model} {what}: does not fit (tried to allocate 20 GiB)"
              for model in ("l14", "b32") for what in ("ddp", "loss")]  # fmt: skip
    assert lines[lines.index("Failed:") + 2 :][:4] == failed


def test_expectations_are_the_budgets_at_the_recipes_sizes():
    config = gpu_check.make_config("h14", {}, True, 384, None)
    assert config.global_batch_size == 75_264
    flops = 196 * gpu_check.budget.flops_per_pair(config.model.architecture(), 77)
    assert gpu_check.expectation(config, 901_629, 384, flops) == "700.1 ms, 32%, 39.74 GiB"


def test_several_gpus_run_each_way_of_sharding_and_compile_with_hsdp():
    one, several = gpu_check.variants_of(1, True), gpu_check.variants_of(8, True)
    assert {"fsdp", "hsdp"} <= set(several)
    assert several["compile hsdp"] == {"compile": True, "parallel": "hsdp"}
    assert "compile" in one
    assert not any("hsdp" in name for name in one)


@pytest.mark.slow
def test_four_processes_run_each_way_of_sharding_and_exchanges_of_a_steps_sizes(tmp_path):
    run_on_ranks("check_gpu", tmp_path, 4)
    lines = (tmp_path / "page.md").read_text().splitlines()
    names = [line[2:].partition(" | ")[0] for line in lines if line.endswith(" GiB |")]
    assert names == [f"b32 {way}" for way in ("ddp", "fsdp", "hsdp")]
    (gradients,) = (line for line in lines if line.startswith("| b32: all-reduce, all gradients"))
    (gathered,) = (line for line in lines if line.startswith("| b32: all-gather, features"))
    assert gathered.split(" | ")[1] == f"{4 * 8 * 32 * 4 / 2**20:.1f} MiB"
    assert float(gradients.split(" | ")[2].removesuffix(" ms").replace(",", "")) > 0


def test_nothing_is_written_without_a_gpu(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--write"])
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main()
    assert stopped.value.code == 2
    assert "this machine has no GPU" in capsys.readouterr().err
