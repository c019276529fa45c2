"""Where a replica listens: its base URL, taken apart. Pure.

A base URL is what the OpenAI clients take: scheme, host, port, and a path. A last "/v1" of the path belongs to the
endpoints and is left out of the prefix, so that "http://host:8000" and "http://host:8000/v1" are the same replica.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

import msgspec

from scoot.benchmark.plan import Endpoint
from scoot.wire.errors import UserError

Scheme = Literal["http", "https"]

DEFAULT_PORTS: Final[dict[Scheme, int]] = {"http": 80, "https": 443}

_API: Final = "/v1"
_ROUTES: Final = {Endpoint.COMPLETIONS: "/v1/completions", Endpoint.CHAT: "/v1/chat/completions"}
_SCHEMES: Final[dict[str, Scheme]] = {"http": "http", "https": "https"}
_PORT_MAX: Final = 65535
_PORT_DIGITS: Final = 6
_NAME_MAX: Final = 253
_EXAMPLE: Final = "give a base URL, as http://127.0.0.1:8000"

# Taken apart here and not by urllib, which drops control characters silently and judges hosts by Python's version.
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)([?#].*)?")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ODD: Final = re.compile(r"[^\x21-\x7e]")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@]+))(?::([0-9]*))?")
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER: Final = re.compile(r"[0-9]+|0[Xx][0-9A-Fa-f]*")
_PATH: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")


class Target(msgspec.Struct, frozen=True):
    """Where a replica listens. `parse_target` makes it; its fields are safe to be put into a request's head.

    Attributes:
        scheme: "http" or "https".
        host: lower-case name, or IP address without brackets.
        port: 1 to 65535.
        prefix: path that all of its endpoints begin with, without a slash at its end; "" for none.
    """

    scheme: Scheme
    host: str
    port: int
    prefix: str = ""

    @property
    def tls(self) -> bool:
        """Whether it is reached by TLS."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """As the Host header has it: without the port if that is the scheme's own."""
        return _bracketed(self.host) if self.port == DEFAULT_PORTS[self.scheme] else self.address

    @property
    def address(self) -> str:
        """Host and port, always both: "[::1]:8000"."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def server_name(self) -> str:
        """The name its certificate has to be for. A DNS name's last dot is no part of it."""
        return self.host.rstrip(".")

    @property
    def url(self) -> str:
        """The base URL, in one way of writing, without "/v1"."""
        return f"{self.scheme}://{self.authority}{self.prefix}"

    def path(self, endpoint: Endpoint) -> str:
        """Path of a generating endpoint."""
        return self.route(_ROUTES[endpoint])

    def route(self, path: str) -> str:
        """Path of anything else the replica serves, given as "/tokenize"."""
        return f"{self.prefix}{path}"


def parse_target(url: str) -> Target:
    """The target of a base URL: "http://127.0.0.1:8000", "https://api.example.com/v1", "http://[::1]:8000/prefix".

    Raises:
        UserError: not a base URL, or one that requests cannot be made of.
    """
    found = _URL.fullmatch(checked(url, key="targets", hint=_EXAMPLE))
    if found is None:
        raise _wrong(url, "is not a URL", _EXAMPLE)
    scheme = _SCHEMES.get(found[1].lower())
    if scheme is None:
        raise _wrong(url, f"has the scheme {found[1][:20]!r}", "http and https are supported")
    if "@" in found[2]:
        raise _wrong(url, "has user information", "leave it out, and name the variable with the key by --api-key-env")
    if found[4] is not None:
        raise _wrong(url, "has a query or a fragment", "leave out everything from ? or # on")
    host, port = parse_address(found[2], url=url, key="targets")
    return Target(scheme, host, DEFAULT_PORTS[scheme] if port is None else port, _prefix(url, found[3]))


def parse_address(text: str, *, url: str, key: str) -> tuple[str, int | None]:
    """Host and port of a URL's authority without user information; None for a port that is not given.

    Args:
        text: the authority.
        url: what it is from, for the message.
        key: as in UserError.

    Raises:
        UserError: no host, or not one; or not a port.
    """
    found = _AUTHORITY.fullmatch(text)
    host = None if found is None else _ip6(found[1]) if found[1] is not None else _name_or_ip4(found[2].lower())
    if found is None or host is None:
        hint = "give a name, an IPv4 address, or an IPv6 address in brackets and without a zone"
        raise _wrong(url, "has no valid host" if text else "has no host", hint, key=key)
    if not found[3]:
        return host, None
    # Python refuses to convert thousands of digits.
    port = int(f"0{found[3].lstrip('0')[:_PORT_DIGITS]}")
    if not 0 < port <= _PORT_MAX:
        raise _wrong(url, "has no valid port", f"ports are from 1 to {_PORT_MAX}", key=key)
    return host, port


def checked(url: str, *, key: str, hint: str) -> str:
    """`url` itself, if it has nothing but visible ASCII characters.

    Raises:
        UserError: it has others, or nothing at all.
    """
    if not url:
        raise UserError("the URL is empty", key=key, hint=hint)
    odd = _ODD.search(url)
    if odd is None:
        return url
    if odd[0].isascii():
        raise _wrong(url, "has a space or a control character", "leave it out", key=key)
    raise _wrong(url, "is not ASCII", "write the host in its xn-- form, and the path with % escapes", key=key)


def redacted(url: str) -> str:
    """`url` for a message: without user information and query, where secrets are."""
    if "@" in url:
        scheme = _SCHEME.match(url)
        return f"{scheme[0] if scheme else ''}..."
    return re.split(r"[?#]", url, maxsplit=1)[0]


def _prefix(url: str, path: str) -> str:
    if not _PATH.fullmatch(path):
        raise _wrong(url, "has a path with characters that must be escaped", "write them as %XX")
    path = path.removesuffix("/")
    if any(path.endswith(route) for route in _ROUTES.values()):
        raise _wrong(url, "is the URL of an endpoint", "leave out what follows /v1")
    segments = path.split("/")[1:]
    if any(segment in ("", ".", "..") for segment in segments):
        raise _wrong(url, "has an empty or a dot segment in its path", "write the path out, with single slashes")
    return path.removesuffix(_API)


def _ip6(text: str) -> str | None:
    try:
        return str(IPv6Address(text))
    except ValueError:
        return None


def _name_or_ip4(text: str) -> str | None:
    """A name that ends in a number is an address or nothing; resolvers would read "127.1" as one, each in its way."""
    if _NUMBER.fullmatch(text.rstrip(".").rpartition(".")[2]):
        try:
            return str(IPv4Address(text))
        except ValueError:
            return None
    return text if _NAME.fullmatch(text) and len(text.rstrip(".")) <= _NAME_MAX else None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wrong(url: str, what: str, hint: str, *, key: str = "targets") -> UserError:
    return UserError(f"{redacted(url)!r} {what}", key=key, hint=hint)
