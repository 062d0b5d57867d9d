"""Print the versions of the clients that ran."""

from __future__ import annotations

import client_tools


def pytest_terminal_summary(terminalreporter) -> None:
    if client_tools.versions:
        terminalreporter.write_line(f"clients: {', '.join(client_tools.versions)}")
