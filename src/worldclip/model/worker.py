"""Load a model in the processes of an executor: how many of them pay, and what each may use."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
from dataclasses import dataclass

from worldclip.core.execute import usable_cores
from worldclip.model.clip import pick_device
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.inference import Clip
from worldclip.model.load import Source, files_of, read


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """The model that each process loads, and its number of threads where there are several processes."""

    source: Source
    options: LoadOptions
    digest: str
    """Digest of the model: a process that lives on loads another one at the same path anew."""
    threads: int = 1


def num_processes(device: str, source: Source) -> int:
    """Return one process per CUDA device, else one per core while half of the memory holds the weights.

    ONNX encoders run on the CPU.  Raises UserError for an unavailable device.
    """
    if source.layout != "onnx":
        chosen = pick_device(device)
        if chosen.type == "cuda" and chosen.index is not None:  # cuda:N
            return 1
        if chosen.type == "cuda":
            import torch

            return torch.cuda.device_count()
    files = [source.path]
    if not source.path.is_file():
        files = files_of(source.path)
    weights = max(1, sum(file.stat().st_size for file in files if file.suffix not in (".json", ".md")))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(usable_cores(), memory // 2 // weights))


@functools.lru_cache(maxsize=1)
def load_here(model: WorkerModel) -> Clip:
    """Load this process's model: a worker uses its own CUDA device, or its share of the cores."""
    if multiprocessing.parent_process() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(model.threads))  # onnxruntime's sessions read it
        if model.source.layout != "onnx":
            import torch

            torch.set_num_threads(min(model.threads, torch.get_num_threads()))
            if torch.cuda.is_available():
                # The number at the end of the process's name (SpawnProcess-3): a pool numbers its workers in order.
                match = re.search(r"\d+$", multiprocessing.current_process().name)
                number = int(match[0]) if match else 0
                torch.cuda.set_device(number % torch.cuda.device_count())
    return read(model.source, model.options)
