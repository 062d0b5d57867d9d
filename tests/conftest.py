"""What tests share: the folder of real data where there is one, and a small world with its finished run."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from killed import digests_of_curation
from toy import ToyWorld, build_toy_world
from worldclip.cli import command
from worldclip.core.execute import Executor, create_executor

REPOSITORY = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")
LONG_FILES = (
    *("test_ranks.py", "test_hostile.py", "test_same_bytes.py", "test_drawn_recipes.py", "test_resume.py"),
    *("test_mistakes.py", "test_what_made_it.py", "test_execute_ray.py", "test_export_formats.py", "test_tables.py"),
    *("test_emoji.py", "test_drawn_histories.py", "test_every_machine.py", "test_pool_join.py", "test_server.py"),
)
ROOM_BYTES = 4 * 2**30  # one process of tests fills up to 0.4 GB at once


def pytest_configure() -> None:
    """Write to memory where it has room and TMPDIR is not set: folders on a disk take a third of a suite's time."""
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # it is read again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: one that began last would run while the other processes have no more."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def one_worker() -> Iterator[None]:
    """Let a command without --workers work in this process: workers start anew in each stage and take seconds."""

    def create_one(where: str, workers: int | None) -> Executor:
        return create_executor(where, 1 if workers is None else workers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "create_executor", create_one)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[None]:
    """Wait for no disk: only a machine that loses its power shows whether a file is on it (test_execute: the order)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_bfloat16() -> Iterator[None]:
    """Let `auto` be float32 on each processor, where a test does not say otherwise: it compares vectors with others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldclip.model.precision.CPUINFO", Path(os.devnull))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder, where `runs` is no run of a person, and reach servers of tests without a proxy."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        yield
    left = sorted(path.name for path in folder.iterdir())
    assert not left, f"a test wrote {', '.join(left)} into the working directory; give it tmp_path"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the repository (or at WORLDCLIP_SHARED); tests that read it are skipped where it is not."""
    folder = Path(os.environ.get("WORLDCLIP_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def published_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: the folder of a published model at reduced size, by name; copy it before you change it."""

    @functools.cache
    def folder_of(name: str) -> Path:
        from small_models import save_hugging_face
        from worldclip.model import published

        folder = tmp_path_factory.mktemp(name)
        save_hugging_face(published.find(name), folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def hugging_face(published_model: Callable[[str], Path]) -> Path:
    """The folder of ViT-B/32 as on the hub, at reduced size; copy it before you change it."""
    return published_model("metaclip-2-worldwide-b32")


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> ToyWorld:
    """Made once for all tests; copy it before you change it."""
    return build_toy_world(tmp_path_factory.mktemp("toy_world"))


@pytest.fixture(scope="session")
def toy_run(toy_world: ToyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world's finished run, metadata to export; read it, do not change it."""
    pytest.importorskip("torch")
    import worldclip

    return worldclip.run(str(toy_world.recipe), out=tmp_path_factory.mktemp("toy_run") / "run")


@pytest.fixture
def own_run(toy_run: Path, tmp_path: Path) -> Path:
    """A copy of the toy world's finished run, to change."""
    return Path(shutil.copytree(toy_run, tmp_path / "run", ignore=shutil.ignore_patterns(".lock")))


@pytest.fixture(scope="session")
def curated_run(toy_world: ToyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world's run until curate, by one worker; read it, do not change it."""
    import worldclip

    return worldclip.run(str(toy_world.recipe), out=tmp_path_factory.mktemp("curated") / "run", until="curate")


@pytest.fixture(scope="session")
def curated(curated_run: Path) -> dict[str, str]:
    """The digests of what curation leaves of the toy world."""
    return digests_of_curation(curated_run)


@pytest.fixture(scope="session")
def embedded_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, a pool, photos, and the pool's images and texts embedded; copy it before you change it."""
    from embedded_world import write_embedded_world

    root = tmp_path_factory.mktemp("embedded_world")
    write_embedded_world(root)
    return root


@pytest.fixture(scope="session")
def world(embedded_world: Path) -> Path:
    return embedded_world


@pytest.fixture(scope="session")
def clip(hugging_face: Path) -> Any:
    """ViT-B/32 at reduced size, which is also the model of the embedded world."""
    import worldclip

    return worldclip.load(hugging_face, device="cpu")
