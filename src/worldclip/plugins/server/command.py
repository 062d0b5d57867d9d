"""The command `serve`: its module needs the extra `serve`, which no other command does."""

from __future__ import annotations

from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.preflight import missing_packages

if problems := list(missing_packages("serve", ("starlette", "uvicorn", "prometheus_client"), extra="serve")):
    raise UserError(problems)

from worldclip.plugins.server.serve import serve  # after the check, which names the extra

SERVE = Command(serve, lambda nothing, flags: "", positional=("embedded",))
"""Serve a search page and an API in OpenAI's shape; the model stays loaded."""
