"""Network addresses, and the rule that plaintext stays on loopback."""

from __future__ import annotations

import ipaddress

import msgspec

from scoot.wire.errors import UserError

_MAX_PORT = 65_535


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of PEM files for mutual TLS: the CA that signs the peer, and this side's certificate and key."""

    ca: str
    cert: str
    key: str


class Endpoint(msgspec.Struct, frozen=True):
    """A host and port; IPv6 hosts are stored without brackets. Port 0 asks the kernel for one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether traffic to this address cannot leave the machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_endpoint(text: str, *, key: str = "") -> Endpoint:
    """Parse "host:port" or "[v6]:port".

    Raises:
        UserError: not of that form, or a port outside 0..65535.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise UserError(f"{text!r} is not an address", key=key, hint='write "host:port", for example "127.0.0.1:7070"')
    return Endpoint(host, int(port))


def require_tls(endpoint: Endpoint, tls: TlsFiles | None, *, key: str = "") -> None:
    """Refuse plaintext to anything but loopback.

    Raises:
        UserError: the address leaves the machine and no certificate was given.
    """
    if tls is None and not endpoint.is_loopback:
        raise UserError(
            f"{endpoint} is not a loopback address, and plaintext is for loopback only",
            key=key,
            hint="give ca, cert and key (PEM files) for mutual TLS",
        )
