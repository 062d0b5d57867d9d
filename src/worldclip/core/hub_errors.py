"""Say why the Hugging Face hub or an object store refused a request, and what to do.

Addresses are left out, since they may hold signatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from worldclip.core.errors import first_line

_HUB = "log in with `hf auth login` or set HF_TOKEN"
_S3 = (
    "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket set anon = true in fsspec's "
    "configuration"
)


def explain(error: BaseException) -> str:
    """Return the reason of an error in one line: `explain_answer`, else the system's words, else the error's own."""
    return explain_answer(error) or getattr(error, "strerror", None) or first_line(error)


def explain_answer(error: BaseException) -> str | None:
    """Return why the hub or a store refused a request or could not be reached, with the remedy, in one line.

    None for another error.
    """
    for cause in _causes(error):
        answer = _answer_of(cause)
        if answer is not None:
            return _reason(cause, *answer)
        kinds = {kind.__name__ for kind in type(cause).__mro__ if kind.__module__.split(".")[0].endswith("botocore")}
        if any("Credential" in kind or "Profile" in kind for kind in kinds):
            return f"no credentials were found ({type(cause).__name__}); {_S3}"
        if kinds & {"ConnectionError", "HTTPClientError", "InvalidEndpoint"}:
            return f"the store cannot be reached ({type(cause).__name__}); check the network and the endpoint"
    return None


def is_unreachable(error: BaseException) -> bool:
    """Return whether the hub did not answer: no network, HF_HUB_OFFLINE (a ConnectionError), busy or down."""
    for cause in _causes(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & {"TransportError", "ConnectionError"}:
            return True
    return is_busy(error)


def is_busy(error: BaseException) -> bool:
    """Return whether the hub or a store refused a request only for now: too many requests, or a fault of its own."""
    answers = filter(None, map(_answer_of, _causes(error)))
    return any(status == 429 or status >= 500 or code == "SlowDown" for status, code in answers)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from: file systems raise FileNotFoundError from the answer."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _answer_of(error: BaseException) -> tuple[int, str] | None:
    """Return the status of an answer, and its code where a store names it; None for an error without an answer."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # parsed by botocore
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 400)
        return status, str(response.get("Error", {}).get("Code") or status)
    number = getattr(response, "status_code", None)
    return None if number is None else (int(number), str(number))


def _reason(error: BaseException, status: int, code: str) -> str:
    is_hub = not isinstance(getattr(error, "response", None), Mapping)
    if "GatedRepoError" in {kind.__name__ for kind in type(error).__mro__}:
        return f"access is gated ({code}); accept its terms on its page of the hub, and {_HUB}"
    if status == 429 or status >= 500 or code == "SlowDown":
        return f"too many requests, or busy ({code}); use fewer workers, or run the same command again later"
    if is_hub and status in (401, 404):
        return f"no such repository, revision or file, or it is private ({code}); check the name, and {_HUB}"
    if status == 404:
        return f"no such bucket, folder or file ({code}); check the path"
    if status in (401, 403):
        remedy = _HUB if is_hub else _S3
        return f"access denied ({code}); check the credentials: {remedy}"
    return f"the store refused the request ({code}); check the path, the region and the credentials"
