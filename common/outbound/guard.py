"""What may be contacted: the text of a URL, and the addresses its host resolved to. No I/O."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import httpx

from common.errors import NightshiftError
from common.outbound.addresses import is_public, literal

log = logging.getLogger(__name__)

_HINT = "Use a public http or https address; the operator can allow hosts by name in NIGHTSHIFT_ALLOW_PRIVATE_HOSTS."
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")

# What stands behind such a host and port cannot change what they are.
_PLAIN = re.compile(r"(https?://[a-z0-9.-]+(?::[0-9]{1,5})?)/[A-Za-z0-9/._~%!$&'()*+,;=:@?-]*")
_MOST_REMEMBERED = 10_000

# Media hosts and callback receivers do use high ports, so those are open; below 1024 HTTP lives on two. Closed above it
# are services that act on whatever reaches them, so that this machine cannot be made to speak to them in its own name.
_WEB_PORTS = frozenset({80, 443})
_CLOSED_PORTS = frozenset(
    {1433, 1521, 3306, 5432, 5984, 6379, 9200, 9300, 11211, *range(27017, 27020)}  # databases, search, caches
    | {2181, 2375, 2376, 2379, 2380, 6443, 10250}  # ZooKeeper, Docker, etcd, Kubernetes
    | {5672, 9092}  # AMQP, Kafka
    | {2049, 3128, 3389, 6000, 6566, 10080}  # NFS, Squid, remote desktops, X11, scanners, Amanda
    | {4190, 5060, 5061, *range(6665, 6670), 6697}  # mail filters, SIP, IRC
)


class Guard:
    """The rule for outbound requests.

    allow_hosts: `host` or `host:port` (IPv6: `[::1]:8080`) that may be private and use any port, compared whole and
    without regard to case. Raises ValueError for an entry that is neither.
    """

    def __init__(self, allow_hosts: Iterable[str] = ()) -> None:
        self._allowed = frozenset(_entry(text) for text in allow_hosts)

    def allows(self, host: str, port: int) -> bool:
        """Whether the operator named this host, as `check_url` normalised it, with this port or with none."""
        return (host, None) in self._allowed or (host, port) in self._allowed

    def check_url(self, url: str, pointer: str | None = None) -> httpx.URL:
        """Checks what can be told without DNS, so that a submission fails early; the connection checks the rest.

        Returns the URL with its host in lower case, in IDNA's ASCII form, without final dot, and without fragment.
        Raises `url_forbidden`.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise forbidden(f"The URL cannot be read: {error}", pointer) from error
        if parsed.scheme not in ("http", "https"):
            raise forbidden("The URL is neither http nor https.", pointer)
        if parsed.userinfo:
            raise forbidden("The URL holds a user name or password.", pointer)
        host = _normal_host(parsed.raw_host)
        if host is None:
            raise forbidden("The URL has no valid host name.", pointer)
        port = port_of(parsed)
        if not 0 < port < 65536:
            raise forbidden(f"There is no port {port}.", pointer)
        if not self.allows(host, port):
            if port in _CLOSED_PORTS or (port < 1024 and port not in _WEB_PORTS):
                raise forbidden(f"Port {port} is not one for web servers.", pointer)
            address = literal(host)
            local = host == "localhost" or host.endswith(".localhost")
            if local or (address is not None and not is_public(address)):
                raise forbidden(f"{host} is not a public address.", pointer)
        return parsed.copy_with(host=host, fragment=None)

    def screen(self, host: str, port: int, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        """Raises `url_forbidden` unless every address that `host` resolved to is public, or the operator named it.

        One private address among public ones refuses the host: which of them a connection takes is chance. The error
        does not tell the address, which would map the operator's network for the caller; the log does.
        """
        if self.allows(host, port):
            return
        closed = [str(address) for address in addresses if not is_public(address)]
        if closed:
            log.warning("refused to contact %s: it resolves to %s", host, ", ".join(closed))
            raise forbidden(f"{host} leads to an address that is not public.")


class Remembering:
    """A guard for many addresses, most of them on the same few hosts: it looks once at each scheme, host and port."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._passed: set[str] = set()

    def check_url(self, url: str, pointer: str | None = None) -> None:
        """Raises what `Guard.check_url` raises."""
        plain = _PLAIN.fullmatch(url)
        origin = plain[1] if plain is not None else None
        if origin in self._passed:
            return
        self._guard.check_url(url, pointer)
        if origin is not None and len(self._passed) < _MOST_REMEMBERED:
            self._passed.add(origin)


def check_url(url: str, allow_hosts: Iterable[str] = (), pointer: str | None = None) -> httpx.URL:
    """`Guard.check_url` under the operator's `allow_private_hosts`."""
    return Guard(allow_hosts).check_url(url, pointer)


def port_of(url: httpx.URL) -> int:
    return url.port if url.port is not None else 443 if url.scheme == "https" else 80


def shown(url: httpx.URL | str) -> str:
    """The URL as it may stand in errors and logs: without its query, where presigned links carry their secret."""
    return str(httpx.URL(url).copy_with(query=None, fragment=None, userinfo=b""))


def forbidden(detail: str, pointer: str | None = None) -> NightshiftError:
    return NightshiftError("url_forbidden", detail, hint=_HINT, pointer=pointer)


def _normal_host(raw: bytes) -> str | None:
    host = raw.decode("ascii").removesuffix(".")
    address = literal(host)
    if isinstance(address, IPv6Address):
        return address.compressed if address.scope_id is None else None
    return host if len(host) <= 253 and _HOST_NAME.fullmatch(host) else None


def _entry(text: str) -> tuple[str, int | None]:
    bare_v6 = isinstance(literal(text), IPv6Address)
    try:
        # A scheme without a default port, so that a port that is named stays named.
        url = httpx.URL(f"host://[{text}]" if bare_v6 else f"host://{text}")
    except httpx.InvalidURL as error:
        raise ValueError(f"{text!r} is not a host or host:port: {error}") from error
    host = _normal_host(url.raw_host)
    if host is None or url.userinfo or url.raw_path not in (b"", b"/") or url.fragment:
        raise ValueError(f"{text!r} is not a host or host:port")
    return host, url.port
