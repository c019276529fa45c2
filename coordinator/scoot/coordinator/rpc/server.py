"""The gRPC server: address, TLS, limits, keepalive."""

from __future__ import annotations

import pathlib

import grpc
import grpc.aio

from scoot.coordinator.rpc.agents import AgentServicer
from scoot.coordinator.rpc.studies import StudyServicer
from scoot.v1 import agent_service_pb2_grpc, study_service_pb2_grpc
from scoot.wire import limits
from scoot.wire.endpoint import Endpoint, TlsFiles, require_tls
from scoot.wire.errors import UserError

_OPTIONS = (
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.REPLY_BYTES),
    ("grpc.so_reuseport", 0),  # a second coordinator on the port must fail, not share it
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


async def start_server(
    endpoint: Endpoint, tls: TlsFiles | None, studies: StudyServicer, agents: AgentServicer
) -> tuple[grpc.aio.Server, Endpoint]:
    """Serve both services; the endpoint returned has the port that was bound.

    Raises:
        UserError: plaintext beyond loopback, an unreadable certificate, or the port is taken.
    """
    require_tls(endpoint, tls, key="listen")
    server = grpc.aio.server(options=_OPTIONS)
    study_service_pb2_grpc.add_StudyServiceServicer_to_server(studies, server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, server)
    try:
        if tls is None:
            port = server.add_insecure_port(str(endpoint))
        else:
            port = server.add_secure_port(str(endpoint), _credentials(tls))
    except RuntimeError as error:
        raise UserError(
            f"cannot listen on {endpoint}", key="listen", hint="another coordinator may hold the port; choose another"
        ) from error
    await server.start()
    return server, Endpoint(endpoint.host, port)


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    pem = {}
    for key in ("ca", "cert", "key"):
        path = getattr(tls, key)
        try:
            pem[key] = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read: {error.strerror}", path=path, key=f"tls.{key}") from error
    return grpc.ssl_server_credentials(
        [(pem["key"], pem["cert"])], root_certificates=pem["ca"], require_client_auth=True
    )
