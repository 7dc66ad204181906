from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cameo_client import Client, connect
from harness import CAMEO_BIN, Program, Server

WORKSPACE = "acme/main/web"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if not CAMEO_BIN.exists():
        pytest.fail(f"no server at {CAMEO_BIN}: run `cargo build`, or set CAMEO_BIN")
    server = Server(tmp_path)
    server.start()
    yield server
    server.reap()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connect(server.address) as channel:
        yield Client(channel, WORKSPACE)


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    """Starts programs, and kills those that are still running after the test."""
    programs: list[Program] = []

    def start(*command: str, stderr: int | None = None) -> Program:
        programs.append(Program(*command, stderr=stderr))
        return programs[-1]

    yield start
    for program in programs:
        program.reap()
