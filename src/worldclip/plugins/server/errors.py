"""Errors of the API, in OpenAI's shape, which its clients read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from worldclip.core.suggest import suggest

CLIENT_GONE = 499  # nobody reads it; nginx counts requests of clients that hung up under this number
CODES = {401: "invalid_api_key", 404: "not_found", 413: "request_too_large", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """A request that gets no answer: status, what is wrong and what to do, and the parameter it is about."""

    def __init__(
        self, status: int, problems: str | Sequence[str], *, param: str | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        self.status = status
        self.message = problems if isinstance(problems, str) else "; ".join(problems)
        self.param = param
        self.headers = dict(headers)
        super().__init__(self.message)

    def response(self) -> JSONResponse:
        """Return the error as {"error": {message, type, param, code}}."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": CODES.get(self.status)}
        return JSONResponse({"error": error}, self.status, self.headers)


def unanswered(request: Request, error: HTTPException, paths: Sequence[str]) -> ApiError:
    """Return the error of a request that has no handler: which known path, or which method, is meant."""
    path = request.url.path
    message = error.detail
    if error.status_code == 404:
        message = f"no address {path!r} here; {suggest(path, paths)}"
    elif error.status_code == 405:
        methods = {*(error.headers or {}).get("Allow", "").split(", ")} - {"HEAD"}
        message = f"{path} does not answer {request.method}; send {', '.join(sorted(methods))}"
    return ApiError(error.status_code, message, headers=error.headers or {})


def too_busy(retry_after: int) -> ApiError:
    """Return the error of a server that has enough to do."""
    message = f"too many requests are waiting; try again in {retry_after} s"
    return ApiError(429, message, headers={"Retry-After": str(retry_after)})
