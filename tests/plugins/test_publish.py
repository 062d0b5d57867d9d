"""What a run curated as a dataset of the hub: the folder, its card, its Croissant record, the upload."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from plain_recipe import LISTS, make_recipe, make_shards, run_stages, write_metadata, write_pool
from tables import rows_of_tar
from worldclip.cli import main
from worldclip.core import layout
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.reasons import REASONS
from worldclip.core.settings import to_toml
from worldclip.curate import read_curated
from worldclip.export.push import push
from worldclip.plugins.publish import prepare


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run after curate, with tars."""
    root = tmp_path_factory.mktemp("publish")
    shards = make_shards(seed=2)
    write_pool(root / "pool", shards)
    write_metadata(root / "run", LISTS)
    recipe = make_recipe(root / "pool", curate={"write": "tars", "samples_per_tar": 7})
    run_stages(recipe, root / "run", LocalExecutor(workers=1, quiet=True))
    (root / "run/recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    return root / "run"


def kept_rows(run):
    return [row for name in layout.matched_shards(run) for row in read_curated(run, name).to_pylist()]


def front_matter(run) -> dict:
    yaml = pytest.importorskip("yaml", reason="yaml is not installed")
    text = (run / "publish/README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("data", ["list", "tars"])
def test_datasets_loads_the_published_folder(run, tmp_path, data) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    prepare(run, "me/pairs", data)
    loaded = datasets.load_dataset(str(run / "publish"), split="train", cache_dir=str(tmp_path))
    if data == "list":
        expected = sorted((row["key"], row["text_idx"], row["text"], row["lang"]) for row in kept_rows(run))
        assert sorted((row["key"], row["text_idx"], row["text"], row["lang"]) for row in loaded) == expected
    else:
        assert {row["key"] for row in loaded["json"]} == {row["key"] for row in kept_rows(run)}


@pytest.mark.parametrize("data", ["list", "tars"])
def test_croissant_record_is_valid(run, data) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    prepare(run, "me/pairs", data, "cc-by-4.0")
    record = mlcroissant.Dataset(jsonld=str(run / "publish/croissant.json"))
    assert not record.metadata.ctx.issues.errors
    fields = [field.id for records in record.metadata.record_sets for field in records.fields]
    columns = [f"pairs/{name}" for name in ("key", "text_idx", "text", "lang", "keep_prob")]
    assert fields == (columns if data == "list" else ["txt_members/content", "json_members/content"])


def test_card_says_languages_licence_sizes_thresholds_and_what_was_removed(run) -> None:
    upload = prepare(run / "curate", "me/pairs", license="cc-by-4.0")
    matter = front_matter(run)
    report = json.loads((run / "curate/report.json").read_text())
    kept = {lang for lang, row in report["languages"].items() if row["pairs_out"]}
    assert matter["license"] == "cc-by-4.0"
    assert set(matter["language"]) == kept
    assert matter["size_categories"] == ["n<1K"]
    digest = json.loads((run / "curate/manifest.json").read_text())["digest"]
    assert matter["configs"] == [
        {"config_name": f"curate-{digest}", "data_files": [{"split": "train", "path": "data/**/*.parquet"}]}
    ]
    text = (run / "publish/README.md").read_text(encoding="utf-8")
    for reason in REASONS:
        if report["total"][reason.column]:
            assert re.search(rf"\| {reason.label} +\| +{report['total'][reason.column]:,} ", text), reason
    assert "### Kept pairs by language" in text
    assert "threshold" in text
    assert dict(upload.files)["README.md"] == len(text.encode())


def test_published_again_has_nothing_of_the_last_time(run) -> None:
    prepare(run, "me/pairs", "tars")
    tars = sorted((run / "publish/data").glob("*.tar"))
    assert [rows_of_tar(tar) for tar in tars] == [
        rows_of_tar(tar) for tar in sorted((run / "curate/tars").glob("*.tar"))
    ]
    prepare(run, "me/pairs")
    assert not list((run / "publish").rglob("*.tar"))
    assert front_matter(run)["license"] == "unknown"


def test_credentials_in_the_recipe_are_not_published(run) -> None:
    card = run / "curate/DATA_CARD.md"
    before = card.read_text(encoding="utf-8")
    secret = "s3://bucket/keys.npy?X-Amz-Signature=0123456789abcdef"
    card.write_text(f"{before}\n- `pool.valid_keys`: {secret}\n", encoding="utf-8")
    prepare(run, "me/pairs")
    card.write_text(before, encoding="utf-8")
    text = (run / "publish/README.md").read_text(encoding="utf-8")
    assert "X-Amz-Signature=***" in text
    assert "0123456789abcdef" not in text


def test_mistakes_are_named_together(run, tmp_path) -> None:
    with pytest.raises(UserError) as error:
        prepare(run, "no name", "images", "CC BY")
    assert len(error.value.problems) == 3
    with pytest.raises(UserError, match="curate"):
        prepare(tmp_path, "me/pairs")


def fake_hub(calls: list, is_private: bool = True) -> SimpleNamespace:
    def upload_folder(**settings):
        calls.append(("upload", settings))
        url = f"https://huggingface.co/datasets/{settings['repo_id']}"
        return SimpleNamespace(pr_url=f"{url}/discussions/1" if settings.get("create_pr") else None, commit_url=url)

    return SimpleNamespace(
        create_repo=lambda name, **settings: calls.append(("create", name, settings)),
        repo_info=lambda name, repo_type: SimpleNamespace(private=is_private),
        upload_folder=upload_folder,
    )


def test_dataset_is_created_private_or_proposed_by_a_pull_request(run) -> None:
    upload = prepare(run, "me/pairs")
    calls: list = []
    push([upload], fake_hub(calls), is_private=True)
    assert calls[0] == ("create", "me/pairs", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert (calls[1][1]["repo_type"], calls[1][1]["folder_path"]) == ("dataset", run / "publish")
    calls.clear()
    assert push([upload], fake_hub(calls), as_pull_request=True) == [
        "https://huggingface.co/datasets/me/pairs/discussions/1"
    ]
    assert [call[0] for call in calls] == ["upload"]


def test_private_data_is_not_added_to_a_public_dataset(run) -> None:
    calls: list = []
    with pytest.raises(UserError, match="me/pairs exists and is public"):
        push([prepare(run, "me/pairs")], fake_hub(calls, is_private=False), is_private=True)
    assert [call[0] for call in calls] == ["create"]


def test_refusal_of_the_hub_says_what_to_do(run) -> None:
    hub_errors = pytest.importorskip("huggingface_hub.errors", reason="huggingface_hub is not installed")
    import httpx2

    response = httpx2.Response(403, headers={}, request=httpx2.Request("POST", "https://huggingface.co/api?token=abc"))

    def refuse(*_, **__):
        raise hub_errors.HfHubHTTPError("403 for https://huggingface.co/api?token=abc", response=response)

    hub = fake_hub([])
    hub.create_repo = refuse
    with pytest.raises(UserError, match=r"not uploaded to me/pairs: the token lacks the permission \(403\)") as error:
        push([prepare(run, "me/pairs")], hub)
    assert "abc" not in str(error.value)


def test_dry_run_lists_the_files_and_uploads_nothing(run, capsys, monkeypatch) -> None:
    monkeypatch.setattr("worldclip.export.push.push", lambda *_, **__: pytest.fail("the hub was called"))
    assert main(["publish", str(run), "me/pairs", "--data", "tars", "--license", "cc-by-4.0", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "-> dataset me/pairs: " in output
    assert "croissant.json" in output
    assert "data/000000.tar" in output
    assert "nothing was uploaded" in output
