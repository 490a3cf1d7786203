"""Which IP addresses are on the public internet. Pure.

Python's `ipaddress.is_global` is not enough: in 3.11 it calls `64:ff9b::7f00:1`, `2002:7f00:1::`, `::127.0.0.1`,
`192.88.99.1`, `192.0.0.8` and multicast global. The tables follow IANA's special-purpose address registries
(RFC 6890 and its updates); for IPv6 the rule is turned round: only the space that IANA delegates as global unicast is
public, less the exceptions in it.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba Cloud's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform service: a public number that answers inside every virtual machine
        "169.254.0.0/16",  # link-local; the metadata services of AWS, Azure, Google Cloud …
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle Cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT relays
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

# Outside of it lie loopback, mapped and compatible IPv4 (::/8), NAT64 (64:ff9b::/32), discard (100::/64), unique local
# (fc00::/7 with fd00:ec2::254), link-local, site-local and multicast.
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

_CLOSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks, AMT …
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)

# The lower half of an ISATAP address is one of these and an IPv4 address (RFC 5214), under any prefix.
_ISATAP_MARKS = (0x0000_5EFE, 0x0200_5EFE)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether strangers may have this machine connect to `address`.

    IPv6 forms that hold an IPv4 address are never public, whatever that address is: a server on the public internet
    has an address of its own.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST_V6:
        return False
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP_MARKS:
        return False
    return not any(address in network for network in _CLOSED_V6)


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` is when read as the C library reads it, None for a name.

    The C library also takes `2130706433`, `0x7f.1`, `0177.0.0.1` and `127.1`, all of them loopback.
    """
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host)) if not any(map(str.isspace, host)) else None
    except (OSError, UnicodeError):
        return None
