"""The plan of an upload lists what goes to the hub, and push makes these calls."""

from __future__ import annotations

import pytest

from fake_hub import client_of
from fake_hub import hub as hub  # the fixture
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model
from worldclip.export.push import is_own, list_files, plan, push
from worldclip.model.formats import MODEL_FORMATS, written_formats

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def folders(tmp_path):
    for name in ("huggingface", "open_clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text("card")
        (tmp_path / name / "model.safetensors").write_bytes(b"12345")
    return [tmp_path / "huggingface", tmp_path / "open_clip"]


def test_plan_names_repositories_files_and_bytes(folders):
    first, second = plan(folders, "me/clip")
    assert (first.repository, second.repository) == ("me/clip", "me/clip-open_clip")
    assert first.files == (("README.md", 4), ("model.safetensors", 5))
    assert first.lines()[0].endswith("-> me/clip: 2 files, 9 bytes")


def test_all_unpublishable_files_are_refused_together(folders):
    (folders[0] / "README.md").unlink()
    (folders[1] / "optimizer.pt").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        plan(folders, "no name")
    assert len(caught.value.problems) == 3


def test_each_folder_is_uploaded_to_its_repository(folders, hub):
    first, second = push(plan(folders, "me/clip"), client_of(hub))
    assert [first.upload.repository, second.upload.repository] == ["me/clip", "me/clip-open_clip"]
    assert hub.kinds == {"me/clip": "model", "me/clip-open_clip": "model"}
    assert hub.main("me/clip-open_clip")["model.safetensors"] == b"12345"
    assert first.lines() == [first.address]  # a new repository has no history
    assert "/me/clip/commit/" in first.address


def write_page(folder, pictures):
    (folder / "pictures/0").mkdir(parents=True)
    for name in ("README.md", "index.html", "page.css", "pictures.json", "pictures.bin"):
        (folder / name).write_text(f"---\nsdk: static\ntags: [worldclip]\n---\n{pictures}")
    if "b" in pictures:
        (folder / "recipe.toml").write_text("of a run")
    for name in pictures:
        (folder / "pictures/0" / f"{name}.jpg").write_text(name)
    return folder


def test_a_page_becomes_a_static_space_that_holds_what_its_folder_holds(tmp_path, hub):
    pages = [write_page(tmp_path / name / "web", pictures) for name, pictures in (("old", "abc"), ("new", "ac"))]
    for page in pages:
        uploads = plan([page], "me/page")
        assert uploads[0].lines()[0].endswith(f"-> static Space me/page: {len(uploads[0].files)} files, "
                                              f"{sum(size for _, size in uploads[0].files)} bytes")  # fmt: skip
        (pushed,) = push(uploads, client_of(hub))
        assert hub.kinds == {"me/page": "space"}
        assert {*hub.main("me/page")} == {".gitattributes", *(name for name, _ in uploads[0].files)}
    assert pushed.removed == ("pictures/0/b.jpg", "recipe.toml")
    said = "\n".join(pushed.lines())
    assert f"me/page: removed what {pages[1]} no longer holds: pictures/0/b.jpg, recipe.toml" in said
    assert "its history still holds" in said


@pytest.mark.parametrize(
    ("older", "stays"),
    [
        (("onnx/model_quantized.onnx", "onnx/model.onnx_data"), False),
        (("model-00001-of-00002.safetensors", "model.safetensors.index.json"), False),
        (("open_clip_config.json", "open_clip_model.safetensors"), False),
        (("LICENSE", "images/example.png", "notes.md"), True),
    ],
)
def test_a_model_repository_keeps_no_file_of_an_earlier_export(older, stays, folders, hub):
    card = b"---\ntags: [worldclip]\n---\n"
    hub.commit("me/clip", {"README.md": card, "model.safetensors": b"1", **dict.fromkeys(older, b"2")})
    (pushed,) = push(plan(folders[:1], "me/clip"), client_of(hub))
    assert {*hub.main("me/clip")} == {"README.md", "model.safetensors", *(older if stays else ())}
    assert pushed.removed == (() if stays else tuple(sorted(older)))


def test_files_that_worldclip_did_not_publish_are_not_deleted(folders, hub):
    files = {"README.md": b"mine", "flax_model.safetensors": b"mine"}
    hub.commit("me/clip", files)
    with pytest.raises(UserError, match=r"me/clip holds files that worldclip did not publish .*: flax_model"):
        push(plan(folders[:1], "me/clip"), client_of(hub))
    assert hub.main("me/clip") == files


@pytest.mark.slow
def test_an_upload_deletes_every_file_that_an_export_writes(published_model, tmp_path):
    """A pattern is missing from a format where one of its files would stay in the repository for ever."""
    source = published_model("metaclip-2-worldwide-s16")
    formats = tuple(name for name in written_formats() if name != "web")  # a page
    export_model(source, tmp_path / "both", ExportConfig(formats=formats, onnx_precisions=("fp32",)))
    folders = [tmp_path / "both" / name for name in formats]
    for folder in folders:
        patterns = MODEL_FORMATS.load(folder.name).CARD.files
        left = [name for name, _ in list_files(folder) if not is_own(name, patterns)]
        assert left == ["README.md"], folder


def test_without_a_network_the_repository_is_named(folders):
    class Unreachable(huggingface_hub.HfApi):
        def repo_exists(self, *_, **__):
            raise type("ConnectError", huggingface_hub.errors.HfHubHTTPError.__bases__[:1], {})("Name not known")

    with pytest.raises(UserError, match=r"was not uploaded to me/clip: .*Name not known.*and the network"):
        push(plan(folders, "me/clip"), Unreachable())


def test_a_dry_run_without_push_is_refused_and_exports_nothing(published_model, toy_world, tmp_path, capsys):
    for source in (str(published_model("metaclip-2-worldwide-s16")), str(toy_world.recipe)):
        assert main(["export", source, "--out", str(tmp_path / "out"), "--dry-run"]) == 2
        assert "--dry-run lists what --push would upload; add --push" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_dry_run_uploads_nothing(published_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *_: pytest.fail("the hub was called"))
    source = str(published_model("metaclip-2-worldwide-s16"))
    assert main(["export", source, "--out", str(tmp_path / "out"), "--push", "me/clip", "--dry-run"]) == 0
    output = capsys.readouterr().err
    assert "-> me/clip: " in output
    assert "model.safetensors" in output
    assert "nothing was uploaded" in output
