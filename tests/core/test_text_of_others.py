"""Names, addresses and texts of others: paths stay below their folder, no credential or control character is shown."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toy import ToyWorld
from worldclip.balance.config import BalanceConfig
from worldclip.cli import main
from worldclip.cli.command import Command, run_command
from worldclip.core import artifacts
from worldclip.core.console import complain, logged_to, note, progress_bar, say
from worldclip.core.errors import UserError, first_line
from worldclip.core.execute import Shard
from worldclip.core.printable import MAX_CHARS, one_line, printable
from worldclip.core.redact import redact, redact_record
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.tools.inspect_run import key_to_text
from worldclip.tools.search import SEARCH

SAFE = ["a", "a/b.tar", "./a", "a//b", "a..b", "...", ".a", "猫/кот", "~a", "a/./b"]


UNSAFE = ["", ".", "/", "..", "../a", "a/..", "a/../../b", "/etc/passwd", "a\0b", "./..", "//a", None, 3, b"a"]


def test_names_below_the_folder_are_joined_and_others_refused(tmp_path):
    for name in SAFE:
        assert safe_join(Path("/data"), name) == Path("/data") / name
    assert safe_join(tmp_path, "x" * 255) == tmp_path / ("x" * 255)
    for name in (*UNSAFE, "x" * 256, "\u4e00" * 86, "a/" * 2000 + "b"):
        assert not is_safe_name(name)
        with pytest.raises(UserError, match="is not a path below /data"):
            safe_join(Path("/data"), "a", name)
        with pytest.raises(UserError, match="is not a path below"):
            Shard(name=name, path="0.tar")


@given(st.text(st.sampled_from("./a\0~"), max_size=12))
def test_what_is_joined_always_lies_below_the_folder(name):
    if is_safe_name(name):
        joined = safe_join(Path("/data/x"), name).resolve()
        assert joined != Path("/data/x")
        assert joined.is_relative_to("/data/x")


# credentials


SECRET = "hunter2hunter2"
WITH_SECRET = [
    f"https://user:{SECRET}@host/x",
    f"zip://a.zip::s3://AKIA123:{SECRET}@bucket/a.zip",
    f"https://host/x.tar?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&x=1",
    f"https://account.blob.core.windows.net/c/x?sv=2022&sig={SECRET}&se=2030",
    f"https://host/x?api_key={SECRET}",
    f"https://host/x?aws_secret_access_key={SECRET}&page=2",
    f"https://host/x#access_token={SECRET}",
    f"https://host/x?page=2&amp;token={SECRET}",
    f"sftp:/user:{SECRET}@host/x",
    f"https:/host/x?token={SECRET}",
    f"https://{SECRET}@host/x",
    f"https:/{SECRET}@host/x",
    f"https://user:pass@{SECRET}@host/x",
    f"zip://a.zip::s3://AKIA123:a/{SECRET}@bucket/a.zip",
    f"s3%253A%252F%252FAKIA123%253Aa%252F{SECRET}%2540bucket/x",
    *(f"https://host/x?page=2&{name}={SECRET}" for name in ("jwt", "bearer", "Authorization", "s%69g", "%2573ig")),
    f"https://host/x%3Ftoken%3D{SECRET}",
    f"https://host/x?url=https%3A%2F%2Fhost%2F%3Fsig%3D{SECRET}%26x",
]
WITHOUT = [
    "hf://datasets/OWNER/NAME@main/data",
    "abfs://container@account.dfs.core.windows.net/pool",
    "zip://a.zip::hf://datasets/OWNER/NAME@main/data",
    "https://host/%40user/x%20y",
    "https://host:8080/@user/x?page=2&amp;lang=sw",
    "write to a@b.c, see https://example.org",
    "/data/pool@2024",
    "https://host/x.tar?id=5&versionId=3.L4kq&x-amz-date=20261128T000000Z#part=2",
    "--set match.profile=unicode --key json:uid tokenizer=xlm-v",
    "key=member; token=3",
    "folders:/me@home/pictures",
]


def test_credentials_of_an_address_are_replaced_and_other_addresses_stay():
    for address in WITH_SECRET:
        for text in (address, f"cannot read '{address}' (404); <{address}>"):
            assert SECRET not in redact(text)
            assert "***" in redact(text)
            assert redact(redact(text)) == redact(text)
        for record in ({"path": {"a": [address]}}, ("pool", address)):
            assert redact_record(record) != record
        assert re.split(":/|%", address)[0] in redact(address)
    assert redact(f"page?token={SECRET}") == "page?token=***", "relative, without a user"
    for address in WITHOUT:
        assert redact(address) == address
        assert redact_record(address) == address


def test_storage_options_in_a_record_are_replaced():
    more = {"account_key": SECRET, "AccountKey": SECRET, "Authorization": SECRET, "aws_session_token": SECRET}
    assert redact_record(more) == dict.fromkeys(more, "***")
    record = {"client_kwargs": {"secret": SECRET, "password": SECRET}, "key": "a pair", "token": 3, "n": [1, 2.5, None]}
    assert redact_record(record) == record | {"client_kwargs": {"secret": "***", "password": "***"}}
    assert redact_record({"secret": "/data/pool"}) == {"secret": "***"}, "a config with it is refused"
    plain = {"secret": "", "pool": "/data/pool", "token": 3}
    assert redact_record(plain) == plain


def test_a_number_that_is_none_is_no_credential():
    (problem,) = BalanceConfig(tail_fraction=float("nan")).problems()
    assert problem.startswith("balance.tail_fraction = NaN: must be between 0 and 1")


def test_files_and_messages_hold_no_credential(tmp_path, capsys):
    address = WITH_SECRET[0]
    artifacts.write_json(tmp_path / "run.json", {"pool": address, address: {"secret": SECRET}})
    artifacts.write_text(tmp_path / "README.md", f"trained on {address}")
    artifacts.write_manifest(tmp_path, config={"path": address}, inputs=[], counts={})
    with logged_to(tmp_path / "log.txt"):
        say("pool", f"reads {address}")
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert len(written) == 4
    for text in (*written, capsys.readouterr().err):
        assert SECRET not in text
        assert "***" in text


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


def test_redaction_takes_linear_time():
    long = "a" * 10**6
    repeated = ("a://", "a://b:c", "?sig=", "?a=", "secret", "hf_", "https:/", "%25", "25")
    for text in (f"{long}://", f"://{long}", f"{long}@", *(f"://{part * 50_000}token=" for part in repeated)):
        assert isinstance(redact(text), str)


# messages


LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} +(\w+)  (.*)$")


def said_by(capsys: pytest.CaptureFixture[str], *flags: str, world: ToyWorld, out: Path) -> str:
    assert main(["run", str(world.recipe), "--out", str(out), "--until", "metadata", *flags]) == 0
    return capsys.readouterr().err


def test_log_file_keeps_every_line_whatever_the_terminal_shows_and_is_appended_to(
    toy_world: ToyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = said_by(capsys, "--quiet", world=toy_world, out=tmp_path / "a")
    assert "starts" not in quiet
    plain = said_by(capsys, world=toy_world, out=tmp_path / "b")
    verbose = said_by(capsys, "--verbose", world=toy_world, out=tmp_path / "c")
    assert "is done" not in plain
    assert "00000.tar is done" in verbose
    for name in "abc":
        lines = (tmp_path / name / "log.txt").read_text(encoding="utf-8").splitlines()
        assert all(LINE.match(line) for line in lines)
        assert ("pool", "00000.tar is done") in {LINE.match(line).groups() for line in lines}  # type: ignore[union-attr]
    before = (tmp_path / "c/log.txt").read_text(encoding="utf-8")
    said_by(capsys, world=toy_world, out=tmp_path / "c")
    after = (tmp_path / "c/log.txt").read_text(encoding="utf-8")
    assert after.startswith(before)
    assert "pool  is finished and unchanged" in after[len(before) :]


def test_messages_are_text_without_markup_and_bars_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("texts", 2, is_shown=False) as advance:
        advance(2)
    say("pool", "[red]a caption[/red] %s")
    assert capsys.readouterr().err.split(maxsplit=1) == ["pool", "[red]a caption[/red] %s\n"]
    errors = {ValueError("one\ntwo"): "one", ValueError(): "ValueError", KeyError("key"): "'key'"}
    assert [first_line(error) for error in errors] == list(errors.values())


EVIL = "\x1b]52;c;ZXZpbA==\x07 a\x9b2J \x7f\u202e b\r\udc80"


def test_control_characters_become_escapes_and_other_text_stays() -> None:
    for text in ("ein Apfel\n\tzwei", "تفاحة \u200f حمراء", "👩\u200d🚀", "नमस्ते\u200c", "\ufeffa"):
        assert printable(text) == text
    assert printable("\x1b[2J\x9b\u202e\r") == r"\u001b[2J\u009b\u202e\u000d"
    assert one_line("a\nb\tc") == r"a\u000ab\u0009c"
    assert len(one_line("a" * 5000)) == MAX_CHARS + 1


def _is_clean(shown: str) -> bool:
    return all(character in "\n\t" or character.isprintable() for character in shown)


def test_messages_and_logs_show_names_of_others_without_controls(tmp_path: Path, capsys) -> None:
    with logged_to(tmp_path / "log"):
        say("match", EVIL, is_detail=True)
        say("match", EVIL)
    note(EVIL)
    complain([EVIL])
    shown = capsys.readouterr().err
    assert shown.count("2J") == 3
    assert _is_clean(shown)
    assert _is_clean((tmp_path / "log").read_text(encoding="utf-8"))


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_results_of_every_command_are_printed_without_controls_and_credentials(flags: list[str], capsys) -> None:
    def show() -> dict[str, str]:
        """Show a caption."""
        return {"caption": f"{EVIL} https://user:{SECRET}@host/x"}

    run_command(Command(show, lambda result, flags: str(result["caption"])), "show", "", flags)
    shown = capsys.readouterr().out
    assert _is_clean(shown)
    assert SECRET not in shown
    if flags:
        assert json.loads(shown)["caption"] == f"{EVIL} https://***@host/x"


def test_keys_and_captions_stay_in_their_line() -> None:
    hit = {"score": 0.5, "key": f"{EVIL}\n  0.999  forged", "text": f"\n{EVIL}", "shard": "a\nb"}
    assert SEARCH.to_text is not None
    lines = SEARCH.to_text([{"query": "a\nb", "hits": [hit]}], SimpleNamespace()).split("\n")
    assert len(lines) == 2
    text = {"text_idx": 0, "text": None, "place": None, "reason": "bad_pair", "problem": f"{EVIL}\n"}
    explained: Any = {"key": f"{EVIL}\nx", "shard": "0.tar", "kept": False}
    explained |= {"not_valid_because": [EVIL], "texts": [text]}
    explained_lines = key_to_text(explained).split("\n")
    assert len(explained_lines) == 4
    assert all(map(_is_clean, [*lines, *explained_lines]))
