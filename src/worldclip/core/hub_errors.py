"""Say what the Hugging Face hub or an object store refused, and what to do.

Addresses are left out, since they may hold signatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from worldclip.core.errors import first_line

LOGIN = "log in with `hf auth login` or set HF_TOKEN"

_KEYS = "(AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
_PUBLIC = "for a public bucket set anon = true in fsspec's configuration"
_REFUSED = "the store refused the request ({code}); check the path, the region and that the credentials are valid"
# Reason -> error codes of S3 (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).  An answer to HEAD
# has no body, so that its code is the status.
_S3_CODES: Mapping[str, str] = {
    "no such bucket ({code}); check its name and the endpoint": "NoSuchBucket InvalidBucketName",
    "no such file or folder ({code}); check the path": "NoSuchKey 404",
    f"access denied ({{code}}); check that the credentials {_KEYS} may list and read it; {_PUBLIC}":
        "AccessDenied AllAccessDisabled 403",
    "the credentials are invalid or have expired ({code}); renew them":
        "ExpiredToken InvalidAccessKeyId InvalidToken SignatureDoesNotMatch",
    "the clock of this machine is wrong ({code}); set it": "RequestTimeTooSkewed",
    "too many requests ({code}); use fewer workers, or run the same command again later":
        "SlowDown ServiceUnavailable RequestLimitExceeded TooManyRequests 429 503",
    "the bucket is in another region or at another endpoint ({code}); set AWS_DEFAULT_REGION or AWS_ENDPOINT_URL":
        "AuthorizationHeaderMalformed IllegalLocationConstraintException PermanentRedirect 301",
    "the store failed ({code}); run the same command again later": "InternalError 500",
    _REFUSED: "400",
}  # fmt: skip
# Codes that say: later.
_BUSY_CODES = "SlowDown ServiceUnavailable RequestLimitExceeded TooManyRequests InternalError 429 500 502 503 504"
# Reason -> classes of botocore's errors without an answer.
_CLIENT_CLASSES: Mapping[str, str] = {
    "no valid credentials were found ({code}); set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
    + _PUBLIC: "CredentialRetrievalError NoCredentialsError PartialCredentialsError ProfileNotFound SSOError "
    "TokenRetrievalError",
    "the store cannot be reached ({code}); check the network and the endpoint":
        "ConnectionError HTTPClientError InvalidEndpoint",
}  # fmt: skip


def explain(error: BaseException) -> str:
    """Return the reason of an error in one line: `explain_answer`, else the system's words, else the error's own."""
    return explain_answer(error) or getattr(error, "strerror", None) or first_line(error)


def explain_answer(error: BaseException) -> str | None:
    """Return why the hub or a store refused a request or could not be reached, with the remedy, in one line.

    None for another error.
    """
    for cause in _causes(error):
        if (response := getattr(cause, "response", None)) is not None:
            reason = _explain_s3(response) if isinstance(response, Mapping) else _explain_hub(cause, response)
        else:
            reason = _explain_client(cause)
        if reason is not None:
            return reason
    return None


def is_busy(error: BaseException) -> bool:
    """Return whether the hub or a store refused a request only for now: too many requests, or a fault of its own."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            codes = {response.get("ResponseMetadata", {}).get("HTTPStatusCode"), response.get("Error", {}).get("Code")}
        else:
            codes = {getattr(response, "status_code", None)}
        if not set(_BUSY_CODES.split()).isdisjoint(map(str, codes)):
            return True
    return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from: file systems raise FileNotFoundError from the answer."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _explain_s3(response: Mapping[str, Any]) -> str:
    """Return the reason of an answer that botocore has parsed."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(response.get("Error", {}).get("Code") or status)
    reason = _reason_of(code, _S3_CODES) or _reason_of(str(status), _S3_CODES) or _REFUSED
    return reason.format(code=code)


def _reason_of(name: str, names_of: Mapping[str, str]) -> str | None:
    """Return the reason whose names, between blanks, have `name`."""
    return next((reason for reason, names in names_of.items() if name in names.split()), None)


def _explain_client(error: BaseException) -> str | None:
    """Return the reason of an error of botocore without an answer; None for an error of another library."""
    for kind in type(error).__mro__:
        is_botocore = kind.__module__.split(".")[0] in ("botocore", "aiobotocore")
        if is_botocore and (reason := _reason_of(kind.__name__, _CLIENT_CLASSES)):
            return reason.format(code=type(error).__name__)
    return None


def _explain_hub(error: BaseException, response: Any) -> str | None:
    """Return the reason of an answer of the hub; None for what is no answer of HTTP."""
    status = getattr(response, "status_code", None)
    if status is None:
        return None
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"access is gated ({status}); accept its terms on its page of the hub, and {LOGIN}"
    if "RevisionNotFoundError" in kinds:
        return f"no such revision ({status}); check what stands after the @"
    if "EntryNotFoundError" in kinds:
        return f"no such file or folder ({status}); check the path"
    if status == 401 and response.headers.get("X-Error-Message", "").startswith("Invalid credentials"):
        return f"the token is invalid or has expired ({status}); {LOGIN}"
    if status == 401:
        return f"no such repository, or it is private ({status}); check the name, and {LOGIN}"
    if status == 404 or "RepositoryNotFoundError" in kinds:
        return f"no such repository, or the token may not read it ({status}); check the name and the token"
    if status == 403:
        return f"the token lacks the permission ({status}); give it access to this repository, or use another token"
    if status == 429:
        return f"too many requests ({status}{_retry_after(response)}); use fewer workers, and {LOGIN} for higher limits"
    return f"the hub answered {status}; try again later"


def _retry_after(response: object) -> str:
    seconds = str(getattr(response, "headers", {}).get("Retry-After", ""))
    return f", retry after {seconds} s" if seconds.isdigit() else ""
