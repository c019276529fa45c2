"""Which proxy a target is reached through, and how it is asked. Sans-IO, pure.

The environment decides, as it does for curl and requests:

- `http_proxy` or `https_proxy`, by the target's scheme, else `all_proxy`. A name in lower case wins over one in upper
  case, even if it is empty. HTTP_PROXY is ignored where REQUEST_METHOD is set: a CGI request could have brought it.
- `no_proxy` lists what is reached directly, split by commas or blanks: names, which stand for everything below them too
  ("example.com", ".example.com" and "*.example.com" are the same), IP addresses, networks ("10.0.0.0/8"), each of
  them with or without ":port", and "*" for everything. An address is never resolved to a name, nor a name to one.
- Loopback is reached directly whatever is set: a proxy elsewhere would look for the server on its own machine.

Only HTTP proxies, spoken to in the clear, are supported; https targets go through a tunnel, so that they stay private.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from scoot.benchmark.http1 import Http1Error, ResponseParser
from scoot.benchmark.target import DEFAULT_PORTS, Target, checked, parse_address
from scoot.wire.errors import RemoteProtocolError, UserError

_EXAMPLE: Final = "give an HTTP proxy, as http://proxy.example.com:3128"
_URL: Final = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?(?:([^/?#]*)@)?([^/?#@]*)/?")
_SPLIT: Final = re.compile(r"[,\s]+")
_ENTRY: Final = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::([0-9]+))?")
_OK: Final = range(200, 300)
_UNAUTHORIZED: Final = 407

_Address = IPv4Address | IPv6Address


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy.

    Attributes:
        host: name, or IP address without brackets.
        port: 1 to 65535.
        authorization: value of the Proxy-Authorization header, a secret; "" for none.
    """

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Proxy(host={self.host!r}, port={self.port})"


class ProxyError(RemoteProtocolError):
    """The proxy did not open the tunnel. Close the connection.

    Attributes:
        status: its HTTP status, 0 if it told none.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def proxy_for(target: Target, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for `target`; None to reach it directly.

    Raises:
        UserError: the variable that counts does not name an HTTP proxy. Its name is the error's key.
    """
    key, value = _variable(environ, target.scheme)
    if not value:
        key, value = _variable(environ, "all")
    if not value or _bypassed(target, _variable(environ, "no")[1]):
        return None
    return _parse_proxy(value, key)


def request_target(target: Target, path: str, proxy: Proxy | None) -> str:
    """What stands between method and version in a request: the whole URL if a proxy is asked in the clear.

    Args:
        target: where the request goes.
        path: as Target.path has it.
        proxy: what it goes through. With https that is a tunnel, and the request inside is as without.
    """
    return path if proxy is None or target.tls else f"http://{target.authority}{path}"


class ConnectTunnel:
    """Asks a proxy for a tunnel. Send `start()`, feed what comes until it is done; then the connection is the target's.

    Attributes:
        done: whether the tunnel is open.
    """

    __slots__ = ("_parser", "_proxy", "_target", "done")

    def __init__(self, target: Target, proxy: Proxy) -> None:
        self.done = False
        self._target = target
        self._proxy = proxy
        self._parser = ResponseParser()

    def start(self) -> bytes:
        """The request."""
        address = self._target.address
        lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
        if self._proxy.authorization:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        return "\r\n".join((*lines, "", "")).encode("ascii")

    def feed(self, data: bytes) -> tuple[bool, bytes]:
        """Whether the tunnel is open, and those of the bytes that came through it already.

        Raises:
            ProxyError: the proxy refuses, or does not speak HTTP.
        """
        at = 0
        try:
            # By lines, so that nothing after the head is taken for a body: an answer to CONNECT has none.
            while at < len(data) and not self._parser.head_complete:
                stop = data.find(b"\n", at) + 1 or len(data)
                self._parser.feed(data[at:stop])
                at = stop
        except Http1Error as error:
            raise ProxyError(f"{self._name}: {error}") from error
        if not self._parser.head_complete:
            return False, b""
        if self._parser.status not in _OK:
            raise self._refusal(self._parser.status)
        self.done = True
        return True, data[at:]

    def eof(self) -> None:
        """The proxy closed the connection.

        Raises:
            ProxyError: it had not opened the tunnel.
        """
        if not self.done:
            raise ProxyError(f"{self._name}: closed before it answered")

    @property
    def _name(self) -> str:
        return f"proxy {self._proxy.host}, port {self._proxy.port}"

    def _refusal(self, status: int) -> ProxyError:
        message = f"{self._name}: HTTP status {status} for a tunnel to {self._target.address}"
        if status == _UNAUTHORIZED:
            known = "others" if self._proxy.authorization else "http://USER:PASSWORD@HOST:PORT"
            message += f" (it wants user and password: give {known} in the variable that names the proxy)"
        return ProxyError(message, status=status)


def _variable(environ: Mapping[str, str], scheme: str) -> tuple[str, str]:
    """Name and value of a variable in the case that counts; "" where it is not set."""
    lower = f"{scheme}_proxy"
    upper = lower.upper()
    if lower in environ:
        return lower, environ[lower].strip()
    if scheme == "http" and "REQUEST_METHOD" in environ:
        return upper, ""
    return upper, environ.get(upper, "").strip()


def _parse_proxy(url: str, key: str) -> Proxy:
    # The value is in no message: it may hold a password.
    found = _URL.fullmatch(checked(url, key=key, hint=_EXAMPLE))
    if found is None:
        raise UserError("not the URL of a proxy", key=key, hint=_EXAMPLE)
    scheme = (found[1] or "http").lower()
    if scheme != "http":
        raise UserError(f"proxies of scheme {scheme[:20]!r} are not supported", key=key, hint=_EXAMPLE)
    host, port = parse_address(found[3], url=url, key=key)
    user, _, password = (found[2] or "").partition(":")
    authorization = ""
    if found[2]:
        pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
        authorization = f"Basic {b64encode(pair).decode('ascii')}"
    return Proxy(host, DEFAULT_PORTS["http"] if port is None else port, authorization)


def _bypassed(target: Target, no_proxy: str) -> bool:
    name = target.server_name
    address = _address(name)
    if _is_here(name, address):
        return True
    entries = [entry for entry in _SPLIT.split(no_proxy.lower()) if entry]
    return any(_matches(entry, name, address, target.port) for entry in entries)


def _is_here(name: str, address: _Address | None) -> bool:
    """Whether this is loopback, or the unspecified address, which Linux connects to loopback."""
    if address is None:
        return name == "localhost" or name.endswith(".localhost")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def _matches(entry: str, name: str, address: _Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if address is not None and _in_network(address, entry):
        return True
    found = _ENTRY.fullmatch(entry)
    if found is None or (found[3] is not None and found[3].lstrip("0") != str(port)):
        return False
    if address is not None:
        return _in_network(address, found[1] or found[2] or "")
    domain = (found[2] or "").removeprefix("*").strip(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _in_network(address: _Address, text: str) -> bool:
    try:
        return address in ip_network(text, strict=False)
    except ValueError:
        return False


def _address(text: str) -> _Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
