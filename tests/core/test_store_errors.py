"""What an object store refuses is said in words with a remedy: as botocore raises it, and as s3fs translates it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest

from worldclip.core import remote
from worldclip.core.errors import BadShard, UserError
from worldclip.core.hub_errors import explain, explain_answer
from worldclip.core.inputs import fingerprint_of
from worldclip.pool import files
from worldclip.pool.listing import list_files

exceptions = pytest.importorskip("botocore.exceptions", reason="botocore is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")

ANSWERS = [  # code, status, what is wrong, what to do
    ("NoSuchBucket", 404, "no such bucket", "check the path"),
    ("404", 404, "no such bucket, folder or file", "check the path"),
    ("AccessDenied", 403, "access denied", "anon"),
    ("ExpiredToken", 400, "refused the request", "credentials"),
    ("SlowDown", 503, "too many requests", "fewer workers"),
    ("InternalError", 500, "busy", "later"),
]


def client_error(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code, "Message": "secret"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(response, "GetObject")


@pytest.mark.parametrize(("code", "status", "reason", "remedy"), ANSWERS)
def test_answer_of_a_store_is_said_with_a_remedy(code: str, status: int, reason: str, remedy: str) -> None:
    answer = client_error(code, status)
    for error in (answer, s3fs.errors.translate_boto_error(answer)):
        text = explain(error)
        assert reason in text
        assert remedy in text
        assert code in text
        assert "\n" not in text
        assert "secret" not in text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (exceptions.NoCredentialsError(), "no credentials were found"),
        (exceptions.ProfileNotFound(profile="mine"), "no credentials were found"),
        (exceptions.EndpointConnectionError(endpoint_url="http://x?sig=abc"), "cannot be reached"),
        (exceptions.ReadTimeoutError(endpoint_url="http://x?sig=abc"), "cannot be reached"),
    ],
)
def test_errors_of_botocore_without_an_answer(error: Exception, reason: str) -> None:
    assert reason in explain(error)
    assert "sig" not in explain(error)


def test_every_error_of_botocore_is_one_line() -> None:
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 50
    for kind in kinds:
        error = kind.__new__(kind)
        Exception.__init__(error, "words")
        assert "\n" not in explain(error)


def test_errors_of_the_system_keep_their_words() -> None:
    assert explain(PermissionError(13, "Permission denied", "file")) == "Permission denied"
    assert explain(ValueError("first\nsecond")) == "first"
    assert explain_answer(OSError("words")) is None


# --- through s3fs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """A store that answers every request with an error; returns the function that chooses it."""
    answer: dict[str, Any] = {}

    class Refusing(http.server.BaseHTTPRequestHandler):
        def log_message(self, *message: object) -> None:
            pass

        def do_GET(self) -> None:
            body = f"<?xml version='1.0'?><Error><Code>{answer['code']}</Code><Message>m</Message></Error>".encode()
            self.send_response(answer["status"])
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(remote, "BUSY_S", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = {
            "endpoint_url": f"http://127.0.0.1:{server.server_address[1]}",
            "config_kwargs": {"retries": {"max_attempts": 0}},
            "skip_instance_cache": True,
        }
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        yield lambda code, status: answer.update(code=code, status=status)
        server.shutdown()


def read_opened(url: str) -> None:
    with files.open_file(url) as file:
        file.read(4)


READERS = [files.read_bytes, lambda url: files.read_range(url, 0, 4), files.FileBytes, read_opened]
REFUSALS = [
    ("NoSuchBucket", 404, "no such"),
    ("AccessDenied", 403, "access denied"),
    ("SlowDown", 503, "too many requests"),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("code", "status", "reason"), REFUSALS)
def test_shard_that_a_store_refuses_says_why(read, code: str, status: int, reason: str, refusing) -> None:
    refusing(code, status)
    with pytest.raises(BadShard, match=rf"cannot be read \({reason}.*;.*\)"):
        read("s3://bucket/0.tar")
    assert reason in fingerprint_of("s3://bucket/0.tar", "0.tar")["unreadable"]


@pytest.mark.parametrize(("code", "status", "reason"), REFUSALS)
def test_pool_that_a_store_refuses_says_why(code: str, status: int, reason: str, refusing) -> None:
    refusing(code, status)
    with pytest.raises(UserError, match=reason):
        list_files("s3://bucket/pool")


@pytest.mark.parametrize("read", READERS)
def test_store_that_is_gone_fails_the_shard_without_a_traceback(read, refusing) -> None:
    fsspec.config.conf["s3"] |= {"endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(BadShard, match=r"cannot be read \(the store cannot be reached"):
        read("s3://bucket/0.tar")
    assert "cannot be reached" in fingerprint_of("s3://bucket/0.tar", "0.tar")["unreadable"]
