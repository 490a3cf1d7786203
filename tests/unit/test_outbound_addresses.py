from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.outbound.addresses import is_public, literal

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.215.14", "100.63.255.255", "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0", "168.63.129.15", "168.63.129.17", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255",
    "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "2001:200::1", "2001:4860:4860::8888", "2600::1", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e",
]  # fmt: skip

CLOSED = [
    # this network, private, carrier-grade NAT, loopback, link-local
    "0.0.0.0", "0.1.2.3", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255", "127.0.0.1",
    "127.255.255.255", "169.254.0.0", "169.254.169.254", "169.254.170.2", "172.16.0.0", "172.31.255.255", "192.168.0.1",
    # protocol assignments, documentation, relays, benchmarks, multicast, reserved, broadcast; clouds' own services
    "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1",
    "198.18.0.0",
    "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "168.63.129.16",
    # unspecified, loopback, unique local, metadata, link-local, site-local, multicast, discard, documentation
    "::", "::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%2", "fec0::1", "ff02::1", "ff0e::1",
    "100::1", "100:0:0:1::1", "2001:db8::1", "3fff::1", "5f00::1", "2620:4f:8000::1", "2606:4700::1%3",
    # Teredo, benchmarks, AMT, ORCHID and its second version
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:3::1", "2001:10::1", "2001:20::1",
    "2001:1ff::1",
    # forms that hold an IPv4 address, a public one too
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::808:808", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:808:808::1", "2606:4700::5efe:7f00:1",
    "2606:4700::200:5efe:10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", CLOSED)
def test_closed(text: str) -> None:
    assert not is_public(ip_address(text))


v4 = st.integers(0, 2**32 - 1)
HOLDERS = {
    "mapped": lambda n: (0xFFFF << 32) | n,
    "compatible": lambda n: n,
    "translated": lambda n: (0xFFFF << 48) | n,
    "6to4": lambda n: (0x2002 << 112) | (n << 80) | 1,
    "teredo client": lambda n: (0x2001_0000 << 96) | (n ^ 0xFFFF_FFFF),
    "teredo server": lambda n: (0x2001_0000 << 96) | (n << 64),
    "nat64": lambda n: (0x0064_FF9B << 96) | n,
    "local nat64": lambda n: (0x0064_FF9B_0001 << 80) | n,
    "isatap": lambda n: (0x2606_4700 << 96) | (0x5EFE << 32) | n,
    "isatap, universal": lambda n: (0x2606_4700 << 96) | (0x0200_5EFE << 32) | n,
}


@pytest.mark.parametrize("form", HOLDERS)
@given(number=v4)
@settings(max_examples=60)
def test_an_ipv6_form_is_no_weaker_than_the_ipv4_address_it_holds(form: str, number: int) -> None:
    assert is_public(IPv4Address(number)) or not is_public(IPv6Address(HOLDERS[form](number)))
    assert not is_public(IPv6Address(HOLDERS[form](number)))


@given(number=v4)
@settings(max_examples=300)
def test_never_weaker_than_the_standard_library_on_ipv4(number: int) -> None:
    address = IPv4Address(number)
    assert address.is_global or not is_public(address)


@given(number=st.one_of(st.integers(0, 2**128 - 1), st.integers(0x2001 << 112, (0x2003 << 112) - 1)))
@settings(max_examples=300)
def test_never_weaker_than_the_standard_library_on_ipv6(number: int) -> None:
    address = IPv6Address(number)
    assert address.is_global or not is_public(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("::1", "::1"),
        ("fe80::1%2", "fe80::1%2"),
    ],
)
def test_literals_are_read_as_the_c_library_reads_them(host: str, address: str) -> None:
    assert literal(host) == ip_address(address)


@pytest.mark.parametrize(
    "host", ["example.com", "localhost", "", "1.2.3.4.5", "127.0.0.1 x", "0xzz", "4294967296", "é"]
)
def test_names_are_no_literals(host: str) -> None:
    assert literal(host) is None
