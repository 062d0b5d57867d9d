"""Say what the Hugging Face hub refused, and what to do, without its addresses, which may hold signatures."""

from __future__ import annotations

from worldclip.core.errors import first_line

LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def explain(error: BaseException) -> str:
    """Return the reason of an error of huggingface_hub or of the network in one line, with its remedy."""
    answer = find_answer(error)
    if answer is not None:
        return _explain_answer(answer)
    return first_line(error)


def find_answer(error: BaseException) -> BaseException | None:
    """Return the error that holds an answer of the hub: this one, or what it was raised from."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "response", None) is None:
        cause = cause.__cause__  # its file system raises FileNotFoundError from the answer
    return cause


def _explain_answer(error: BaseException) -> str:
    response = error.response  # type: ignore[attr-defined]
    status = response.status_code
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
