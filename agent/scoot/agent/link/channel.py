"""Connections to the coordinator: plaintext on loopback, mutual TLS elsewhere, message limits and keepalive."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc.aio

from scoot.wire import limits
from scoot.wire.endpoint import Endpoint, TlsFiles, require_tls
from scoot.wire.errors import UserError

Channel = grpc.aio.Channel
"""For those that pass channels on and do not import grpc."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
    # A dead connection is found in 15 s, before the lease ends, even when nothing is being sent.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The session decides when to try again; the channel must not wait longer than it does.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Control and bulk are different connections: equal options would share one.
    ("grpc.use_local_subchannel_pool", 1),
    # The coordinator is named in a root-owned file; an environment variable must not lead elsewhere.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(endpoint: Endpoint, tls: TlsFiles | None) -> grpc.aio.Channel:
    """A channel to the coordinator on a connection of its own; it connects on first use.

    Raises:
        UserError: the address is not loopback and there is no TLS, or a PEM file cannot be read.
    """
    require_tls(endpoint, tls, key="agent.coordinator")
    if tls is None:
        return grpc.aio.insecure_channel(str(endpoint), options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_pem(tls.ca, "tls.ca"),
        private_key=_pem(tls.key, "tls.key"),
        certificate_chain=_pem(tls.cert, "tls.cert"),
    )
    return grpc.aio.secure_channel(str(endpoint), credentials, options=_OPTIONS)


def _pem(path: str, key: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror}", path=path, key=key) from error
    if b"-----BEGIN " not in data:
        raise UserError("is not a PEM file", path=path, key=key)
    return data
