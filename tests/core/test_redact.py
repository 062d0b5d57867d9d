"""No credential is written or said: in addresses of any kind, in storage options, in messages and files."""

from __future__ import annotations

import json

import pytest

from worldclip.core import artifacts
from worldclip.core.console import say
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.core.redact import has_credential, redact, redact_record, shorten_paths

SECRET = "hunter2hunter2"
WITH_SECRET = [
    f"https://user:{SECRET}@host/x",
    f"s3://AKIA123:{SECRET}@bucket/x",
    f"simplecache::https://user:{SECRET}@host/x",
    f"zip://a.zip::s3://AKIA123:{SECRET}@bucket/a.zip",
    f"https://host/x.tar?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&x=1",
    f"https://host/x.tar?x-amz-security-token={SECRET}",
    f"https://account.blob.core.windows.net/c/x?sv=2022&sig={SECRET}&se=2030",
    f"https://host/x?access_token={SECRET}",
    f"https://host/x?api_key={SECRET}",
    f"https://host/x?aws_secret_access_key={SECRET}&page=2",
    f"https://host/x#access_token={SECRET}",
    f"https://host/x?page=2&amp;token={SECRET}",
    f"https:/user:{SECRET}@host/x",
    f"https:/host/x?token={SECRET}",
]
WITHOUT = [
    "s3://bucket/pool",
    "hf://datasets/OWNER/NAME@main/data",
    "sftp://me@host/pool",
    "abfs://container@account.dfs.core.windows.net/pool",
    "https://host:8080/@user/x?page=2&lang=sw",
    "write to a@b.c, see https://example.org",
    "zip://a.tar::https://host/a.zip",
    "/data/pool@2024",
    "https://host/x.tar?id=5&versionId=3.L4kq&x-amz-date=20261128T000000Z#part=2",
    "https://host/x?page=2&amp;lang=sw",
    "--set match.profile=unicode --key json:uid tokenizer=xlm-v",
    "key=member; token=3",
    "https:/host:8080/@user/x?page=2",
    "sftp:/me@host/pool",
    "folders:/me@home/pictures",
    "C:/me@home/pictures",
]


@pytest.mark.parametrize("address", WITH_SECRET)
def test_credentials_of_an_address_are_replaced(address):
    for text in (address, f"cannot read '{address}' (404); <{address}>"):
        assert SECRET not in redact(text)
        assert "***" in redact(text)
        assert redact(redact(text)) == redact(text)
    assert has_credential({"path": {"a": [address]}})
    assert address.partition(":/")[0] in redact(address)


@pytest.mark.parametrize("address", WITHOUT)
def test_other_addresses_stay_as_they_are(address):
    assert redact(address) == address
    assert not has_credential(address)


def test_storage_options_in_a_record_are_replaced():
    more = {"account_key": SECRET, "AccountKey": SECRET, "hf_token": SECRET, "aws_session_token": SECRET}
    assert redact_record(more) == dict.fromkeys(more, "***")
    record = {"client_kwargs": {"secret": SECRET, "password": SECRET}, "key": "a pair", "token": 3, "n": [1, 2.5, None]}
    assert redact_record(record) == {
        "client_kwargs": {"secret": "***", "password": "***"},
        "key": "a pair",
        "token": 3,
        "n": [1, 2.5, None],
    }


def test_value_under_the_name_of_a_credential_counts_as_one():
    """It would be recorded as ***, and the run would look there."""
    assert has_credential({"secret": "/data/pool"})
    assert not has_credential({"secret": "", "pool": "/data/pool", "token": 3})


def test_files_and_messages_hold_no_credential(tmp_path, capsys):
    address = WITH_SECRET[0]
    artifacts.write_json(tmp_path / "run.json", {"pool": address, address: {"secret": SECRET}})
    artifacts.write_text(tmp_path / "README.md", f"trained on {address}")
    artifacts.write_manifest(tmp_path, config={"path": address}, inputs=[], counts={})
    say("pool", f"reads {address}")
    errors = [
        UserError([f"pool.path = {address}"]),
        BadShard(address),
        StageFailed("pool", {address: f"404 {address}"}, "try again"),
    ]
    written = [path.read_text() for path in tmp_path.iterdir()] + [capsys.readouterr().err, *map(str, errors)]
    assert len(written) == 7
    for text in written:
        assert SECRET not in text
        assert "https://***@host/x" in text
    assert json.loads((tmp_path / "run.json").read_text())["https://***@host/x"] == {"secret": "***"}


CAPTIONS = [
    f'<img src="https://cdn.shop.com/a.jpg?fit=crop&key={SECRET}">',
    f"https://host/x?token={SECRET}\nnext line",
    f"C:\\https://host/x?token={SECRET}\\",
]


@pytest.mark.parametrize("text", CAPTIONS)
def test_json_stays_json_where_a_caption_holds_an_address(tmp_path, text):
    """An escaped quote or line end after a credential is not taken for a part of it."""
    artifacts.write_json(tmp_path / "a.json", {"text": text, text: 1})
    artifacts.write_json(tmp_path / "b.json", [text], is_compact=True)
    artifacts.write_json_lines(tmp_path / "c.jsonl", [[text], [text]])
    for name in ("a.json", "b.json", "c.jsonl"):
        assert SECRET not in (tmp_path / name).read_text()
    assert artifacts.read_json(tmp_path / "a.json") == {"text": redact(text), redact(text): 1}
    assert artifacts.read_json(tmp_path / "b.json") == [redact(text)]
    assert [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()] == [[redact(text)]] * 2


def test_local_paths_are_cut_to_their_last_part():
    paths = {
        "pool": "/home/ada/images",
        "folders": {"a": "folders:/data/ada/a"},
        "keys": ["~/ada/k.txt", "file:///ada/x"],
    }
    assert shorten_paths(paths) == {"pool": "images", "folders": {"a": "folders:a"}, "keys": ["k.txt", "x"]}
    others = ["s3://bucket/images", "hf://datasets/a/b", "owner/name", "json:url", "https://x/y", "a::b"]
    others += ["a text / more", 3, None]
    assert shorten_paths(others) == others
    assert shorten_paths(["simplecache::/home/me/a.tar", "zip://b.tar::file:///home/me/a.zip"]) == [
        "simplecache::a.tar",
        "zip://b.tar::a.zip",
    ]


def test_redaction_takes_linear_time():
    for text in (
        "a://" * 50_000,
        "x" * 10**6 + "://",
        "://" + "a" * 10**6,
        "?sig=" * 50_000 + "://",
        "a" * 10**6 + "@",
        "://" + "?a=" * 50_000,
        "secret" * 50_000 + "=",
        "hf_" * 50_000 + "token=",
        "https:/" * 50_000,
        "://x?" + "%25" * 300 + "=1",
    ):
        assert isinstance(redact(text), str)
