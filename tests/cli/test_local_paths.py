"""A URL in place of a local path is refused in one line by every command, and nothing is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import worldclip
from worldclip.cli import main
from worldclip.cli.command import WRITTEN
from worldclip.cli.overview import COMMANDS
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.core.local_path import require_local, url_problem
from worldclip.metadata.config import MetadataConfig
from worldclip.plugins.crawl.wat import build_wat
from worldclip.recipe import stage_names
from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata

URL = "s3://bucket/run"
OTHER_ARGUMENTS = {
    **dict.fromkeys(("run", *stage_names()), "toy.toml"),
    **dict.fromkeys(("init", "pool check", "pool dedup", "pool pack"), "pool"),
    **dict.fromkeys(("pool emoji", "pool world", "fetch cldr"), ""),
    "explore": "run",
    **dict.fromkeys(("evaluate MODEL", "export MODEL"), "model"),
    "pool wat": "a.wat.gz",
    "embed": "model pool",
    "fetch dataset": "cifar10",
}
"""Of each command that writes to --out."""
OUTPUTS = [  # command, its arguments, what names the path
    *((command, f"{others} --out {URL}", "--out") for command, others in OTHER_ARGUMENTS.items()),
    ("search", URL, "FOLDER"),
]
OTHERS = [  # folders and files that are read, or written under another name
    ("status", URL, "RUN"),
    ("publish", f"{URL} owner/name", "RUN"),
    ("inspect", f"{URL} --key a", "RUN"),
    ("consolidate", URL, "CHECKPOINT"),
    ("run", f"toy.toml --from-run {URL}", "--from-run"),
    ("match", URL, "recipe"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text('[pool]\npath = "pool"\n[balance]\ntail_fraction = 0.1\n')
    return tmp_path


def parameters_of(name: str) -> set[str]:
    return set(inspect.signature(COMMANDS.load(name).function).parameters)


def test_every_command_that_writes_has_a_row():
    writing = {name for name in COMMANDS.names() if parameters_of(name) & set(WRITTEN)}
    assert writing | set(stage_names()) == {command for command, *_ in OUTPUTS}


@pytest.mark.parametrize(("command", "arguments", "setting"), [*OUTPUTS, *OTHERS])
def test_path_at_a_url_is_refused(command, arguments, setting, folder, capfd):
    before = sorted(folder.iterdir())
    assert main([*command.removesuffix(" MODEL").split(), *arguments.split()]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"worldclip: {setting} {URL}")
    assert "must be a local path, not a URL; work in a local folder" in line
    assert sorted(folder.iterdir()) == before


CALLS: dict[str, Callable[[Any], object]] = {
    "run": lambda url: worldclip.run("toy.toml", out=url),
    "wat": lambda url: build_wat(["a.wat.gz"], url),
    "any": lambda url: artifacts.write_json(Path(url) / "report.json", {}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [str, Path])
def test_call_with_a_url_writes_nothing(call, kind, folder):
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=r"s3://bucket/run.*must be a local path"):
        CALLS[call](kind(URL))
    assert sorted(folder.iterdir()) == before


def test_downloads_go_to_a_local_folder(folder):
    run = Run.of(folder, MetadataConfig(dumps=URL))
    with pytest.raises(UserError, match=r"metadata.dumps = s3://bucket/run: must be a local path"):
        fetch_metadata(run, FetchConfig())


@pytest.mark.parametrize(
    "path", ["run", "runs/a:b", "./a", "/tmp/run", "~/run", "C:\\run", "a b/c", "", ".", "../x", "12:30/run"]
)
def test_local_paths_stay(path):
    assert url_problem(path, "--out") is None
    assert require_local(path, "--out") == Path(path)


@pytest.mark.parametrize(
    "url", ["s3://b/run", "gs://b", "hf://datasets/o/n", "https://x.org/a", "simplecache::s3://b/x"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_urls_are_said_as_they_were_given(url, kind):
    assert f"--out {url}: must be" in (url_problem(kind(url), "--out") or "")
