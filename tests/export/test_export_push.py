"""The plan of an upload lists what goes to the hub, and push makes these calls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from small_models import save_hugging_face
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.export.push import plan, push
from worldclip.model import published


@pytest.fixture
def folders(tmp_path):
    for name in ("huggingface", "timm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text("card")
        (tmp_path / name / "model.safetensors").write_bytes(b"12345")
    return [tmp_path / "huggingface", tmp_path / "timm"]


def test_plan_names_repositories_files_and_bytes(folders):
    first, second = plan(folders, "me/clip")
    assert (first.repository, second.repository) == ("me/clip", "me/clip-timm")
    assert first.files == (("README.md", 4), ("model.safetensors", 5))
    assert first.lines()[0].endswith("-> me/clip: 2 files, 9 bytes")


def test_all_unpublishable_files_are_refused_together(folders):
    (folders[0] / "README.md").unlink()
    (folders[1] / "optimizer.pt").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        plan(folders, "no name")
    assert len(caught.value.problems) == 3


def test_each_folder_is_uploaded_to_its_repository(folders):
    calls = []
    hub = SimpleNamespace(
        create_repo=lambda name, exist_ok, **_: calls.append(("create", name, exist_ok)),
        upload_folder=lambda repo_id, folder_path, **_: calls.append(("upload", repo_id, folder_path)) or repo_id,
    )
    assert push(plan(folders, "me/clip"), hub) == ["me/clip", "me/clip-timm"]
    assert calls == [
        ("create", "me/clip", True),
        ("upload", "me/clip", folders[0]),
        ("create", "me/clip-timm", True),
        ("upload", "me/clip-timm", folders[1]),
    ]


def test_a_page_is_uploaded_as_a_static_space(folders, tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "README.md").write_text("card")
    (tmp_path / "web" / "pictures.bin").write_bytes(b"vectors")
    calls = []
    hub = SimpleNamespace(
        create_repo=lambda name, **options: calls.append((name, options)),
        upload_folder=lambda repo_id, folder_path, commit_message, **options: (
            calls.append((repo_id, options)) or repo_id
        ),
    )
    uploads = plan([folders[0], tmp_path / "web"], "me/clip")
    assert uploads[1].lines()[0].endswith("-> static Space me/clip-web: 2 files, 11 bytes")
    push(uploads, hub)
    assert calls == [
        ("me/clip", {"exist_ok": True}),
        ("me/clip", {}),
        ("me/clip-web", {"exist_ok": True, "repo_type": "space", "space_sdk": "static"}),
        ("me/clip-web", {"repo_type": "space"}),
    ]


def test_dry_run_uploads_nothing(tmp_path, capsys, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *_: pytest.fail("the hub was called"))
    save_hugging_face(published.find("metaclip-2-worldwide-s16"), tmp_path / "source")
    arguments = ["export", str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--push", "me/clip", "--dry-run"]
    assert main(arguments) == 0
    output = capsys.readouterr().err
    assert "-> me/clip: " in output
    assert "model.safetensors" in output
    assert "nothing was uploaded" in output
