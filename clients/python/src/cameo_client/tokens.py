"""Presents a token with every call of a channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

Token = str | Callable[[], str]
"""A token, or a function that returns the current one. It is asked before each call, so it should be quick."""


class _Details(grpc.ClientCallDetails):
    """The details of a call, with more metadata."""

    def __init__(self, details: grpc.ClientCallDetails, metadata: list[tuple[str, str]]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class TokenInterceptor(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Adds `authorization: Bearer <token>` to the metadata of each call.

    gRPC's own call credentials work on TLS alone. A server on a loopback address has none.
    """

    def __init__(self, token: Token) -> None:
        self._token = token

    def _intercept(self, continuation: Callable[..., Any], details: grpc.ClientCallDetails, request: Any) -> Any:
        token = self._token if isinstance(self._token, str) else self._token()
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {token}")]
        return continuation(_Details(details, metadata), request)

    intercept_unary_unary = _intercept
    intercept_unary_stream = _intercept
    intercept_stream_unary = _intercept
