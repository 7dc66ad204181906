from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cameo_client import CameoError, Client, ProfilePatch, connect
from conftest import WORKSPACE
from harness import CAMEO_BIN, Server


def _token(callers: Path, name: str, *roles: str) -> str:
    flags = [flag for role in roles for flag in ("--role", role)]
    command = [CAMEO_BIN, "token", "create", "--file", callers, "--name", name, "--workspace", WORKSPACE]
    return subprocess.run([*command, "--never-expires", *flags], check=True, text=True, capture_output=True).stdout.strip()


def test_a_token_is_presented_with_every_kind_of_call(tmp_path: Path) -> None:
    callers = tmp_path / "callers.toml"
    token = _token(callers, "crm", "reader", "writer", "subscriber")
    server = Server(tmp_path, "--callers", callers)
    server.start()
    try:
        asked = []
        with connect(server.address, token=lambda: asked.append(1) or token) as channel:
            client = Client(channel, WORKSPACE)
            assert client.import_profiles([(1, ProfilePatch())]).created == 1
            assert client.get_profile(1).mpid == 1
            [delivery] = client.subscribe(earliest=True, until_caught_up=True)
            assert delivery.event.actor == "crm"
        assert len(asked) >= 3
        with connect(server.address) as channel, pytest.raises(CameoError) as refused:
            Client(channel, WORKSPACE).get_profile(1)
        assert refused.value.reason == "UNAUTHENTICATED"
    finally:
        server.reap()
