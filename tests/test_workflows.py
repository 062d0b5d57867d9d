""".github: its commands are those that a person runs, with no more rights than they need and without secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split())
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
RIGHTS = {"docs.yml": {"pages": "write", "id-token": "write"}, "release.yml": {"id-token": "write"}}
"""Beyond reading the repository, of one job: the one that publishes."""


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request) -> tuple[str, str, dict[str, Any]]:
    text = request.param.read_text(encoding="utf-8")
    return request.param.name, text, yaml.safe_load(text)


def test_actions_are_pinned_by_commit_with_one_version_each():
    lines = [line for path in WORKFLOWS for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert [line for line in lines if not PINNED.search(line)] == []
    pins = {line.partition("uses: ")[2] for line in lines}
    assert len({pin.partition("@")[0] for pin in pins}) == len(pins), sorted(pins)


def test_each_command_is_a_target_of_the_makefile(workflow):
    name, _, content = workflow
    commands = [step["run"] for job in content["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands, name
    assert [line for line in commands if not re.fullmatch(r"make [a-z -]+", line)] == []
    assert {word for line in commands for word in line.split()[1:]} <= TARGETS


def test_rights_are_to_read_but_of_the_job_that_publishes(workflow):
    name, text, content = workflow
    assert content["permissions"] == {"contents": "read"}
    more = {job: work["permissions"] for job, work in content["jobs"].items() if "permissions" in work}
    assert more == ({"publish": RIGHTS[name]} if name in RIGHTS else {})
    assert "secrets." not in text
    assert "pull_request_target" not in text
    if name in RIGHTS:
        publish = content["jobs"]["publish"]
        assert not any("run" in step for step in publish["steps"]), "code of the repository runs without these rights"
        assert publish["environment"]
        assert publish["needs"]


def test_jobs_end_leave_no_credential_and_do_not_run_twice(workflow):
    _, text, content = workflow
    assert content["concurrency"]
    assert all(job["timeout-minutes"] <= 120 for job in content["jobs"].values())
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_every_python_of_the_project_is_tested():
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert jobs["newest"]["strategy"]["matrix"]["python"] == re.findall(r"Python :: (3\.\d+)", pyproject)
