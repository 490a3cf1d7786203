import logging
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import NightshiftError
from common.outbound.addresses import is_public
from common.outbound.guard import Guard, Remembering, check_url, shown


def refusal(url: str, *allow: str) -> NightshiftError:
    with pytest.raises(NightshiftError) as caught:
        check_url(url, allow, pointer="/input/url")
    assert caught.value.code == "url_forbidden"
    assert caught.value.pointer == "/input/url"
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:8080/",
        "http://127.0.0.1./",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0/",
        "http://127。0。0。1/",
        "http://①②⑦.0.0.1/",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[2606:4700::1%25eth0]/",
        "http://localhost/",
        "http://LocalHost./",
        "http://printer.localhost/",
    ],
)
def test_private_addresses_in_any_spelling(url: str) -> None:
    refusal(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.com/a", "neither http nor https"),
        ("file:///etc/passwd", "neither http nor https"),
        ("gopher://example.com/", "neither http nor https"),
        ("example.com/a.mp3", "neither http nor https"),
        ("//example.com/a.mp3", "neither http nor https"),
        ("", "neither http nor https"),
        ("http://user@example.com/", "user name"),
        ("http://user:secret@example.com/", "user name"),
        ("http://example.com\\@127.0.0.1/", "user name"),
        ("http://", "host name"),
        ("http:///a", "host name"),
        ("http://./", "host name"),
        ("http://a..b/", "host name"),
        ("http://-a.example/", "host name"),
        ("http://a b.example/", "host name"),
        ("http://ex%61mple.com/", "host name"),
        ("http://" + "a." * 127 + "example/", "host name"),
        ("http://example.com:0/", "no port 0"),
        ("http://example.com:65536/", "no port 65536"),
        ("http://example.com:80x/", "cannot be read"),
        ("http://example.com\r\nX: y/", "cannot be read"),
        ("http://example.com:22/", "Port 22"),
        ("http://example.com:25/", "Port 25"),
        ("http://example.com:81/", "Port 81"),
        ("https://example.com:6379/", "Port 6379"),
        ("http://example.com:5432/", "Port 5432"),
        ("http://example.com:11211/", "Port 11211"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, why: str) -> None:
    assert why in refusal(url).detail


def test_a_secret_in_a_url_is_not_repeated() -> None:
    assert "secret" not in str(refusal("http://user:secret@example.com/"))


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://EXAMPLE.com/a.mp3", "http://example.com/a.mp3"),
        ("https://example.com./a?b=c%20d#e", "https://example.com/a?b=c%20d"),
        ("https://example.com:443/", "https://example.com/"),
        ("http://example.com:8000/", "http://example.com:8000/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
        ("http://[2606:4700:4700:0::1111]:8443/", "http://[2606:4700:4700::1111]:8443/"),
        ("http://under_score.example/", "http://under_score.example/"),
    ],
)
def test_public_urls_pass_in_their_normal_form(url: str, normal: str) -> None:
    checked = check_url(url)
    assert str(checked) == normal
    assert check_url(normal) == checked


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("127.0.0.1", ["http://127.0.0.1/", "http://127.0.0.1:22/"], ["http://127.0.0.2/", "http://2130706433/"]),
        ("127.0.0.1:80", ["http://127.0.0.1/", "http://127.0.0.1:80/"], ["http://127.0.0.1:81/", "https://127.0.0.1/"]),
        ("LocalHost", ["http://localhost/", "http://LOCALHOST.:5/"], ["http://a.localhost/", "http://127.0.0.1/"]),
        ("[::1]:8080", ["http://[::1]:8080/", "http://[0:0::1]:8080/"], ["http://[::1]/"]),
        ("::1", ["http://[::1]/", "http://[::1]:9/"], ["http://[::2]/"]),
        ("nas.lan:22", ["http://nas.lan:22/"], ["http://nas.lan:23/", "http://x.nas.lan:22/"]),
    ],
)
def test_the_operators_hosts_are_compared_whole(entry: str, allowed: list[str], refused: list[str]) -> None:
    for url in allowed:
        check_url(url, [entry])
    for url in refused:
        refusal(url, entry)


@pytest.mark.parametrize(
    "entry", ["", "http://nas.lan", "nas.lan?x", "nas.lan/x", "a b", "*.lan", "user@nas.lan", "nas:x"]
)
def test_an_entry_that_is_no_host_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match=r"host:port"):
        Guard([entry])


def test_one_private_address_among_public_ones_refuses_the_host(caplog: pytest.LogCaptureFixture) -> None:
    public, private = ip_address("93.184.215.14"), ip_address("10.1.2.3")
    guard = Guard()
    guard.screen("example.com", 443, [public, ip_address("2606:4700::1")])
    for addresses in ([private], [public, private], [private, public]):
        with caplog.at_level(logging.WARNING), pytest.raises(NightshiftError) as caught:
            guard.screen("example.com", 443, addresses)
        assert caught.value.code == "url_forbidden"
        # The operator learns the address, the caller does not.
        assert "10.1.2.3" not in f"{caught.value} {caught.value.hint} {caught.value.extra}"
        assert "10.1.2.3" in caplog.text


def test_the_operators_hosts_may_resolve_to_anything_on_the_port_named() -> None:
    private = [ip_address("10.1.2.3")]
    Guard(["nas.lan"]).screen("nas.lan", 8080, private)
    Guard(["nas.lan:8080"]).screen("nas.lan", 8080, private)
    with pytest.raises(NightshiftError):
        Guard(["nas.lan:8080"]).screen("nas.lan", 8081, private)


@given(number=st.integers(0, 2**32 - 1), form=st.sampled_from(["{}", "{:#x}", "{:#o}"]))
@settings(max_examples=200)
def test_an_address_as_one_number_is_judged_as_the_address(number: int, form: str) -> None:
    host = form.format(number).replace("0o", "0")
    try:
        check_url(f"http://{host}/")
        passed = True
    except NightshiftError:
        passed = False
    assert passed == is_public(ip_address(number))


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_any_text_is_either_a_checked_url_or_forbidden(text: str) -> None:
    for url in (text, f"http://{text}", f"https://example.com{text}"):
        try:
            assert check_url(url).host
        except NightshiftError as error:
            assert error.code == "url_forbidden"


def test_urls_are_shown_without_what_may_be_secret() -> None:
    assert shown("https://user:pw@files.example/a/b.mp3?X-Signature=abc#c") == "https://files.example/a/b.mp3"


_PARTS = st.sampled_from(
    ("http", "https", "ftp", "://", "/", "//", "\\", "@", ":", "80", "8080", "22", "99999", "?", "#", "%2e", " ", "\t",
     ".", "-", "_", "media.example", "MEDIA.example", "é.example", "localhost", "127.0.0.1", "10.0.0.1", "[::1]",
     "a.wav")
)  # fmt: skip


@given(st.lists(st.one_of(st.lists(_PARTS, max_size=8).map("".join), st.just("http://media.example/")), max_size=6))
def test_a_guard_that_remembers_says_the_same(urls: list[str]) -> None:
    guard = Guard(["10.0.0.1:8080"])
    remembering = Remembering(guard)
    starts = ("", "http://", "https://media.example", "http://10.0.0.1:")
    for url in [f"{start}{one}" for one in urls for start in starts]:
        outcomes: list[object] = []
        for one in (guard, remembering, remembering):
            try:
                one.check_url(url, "/input/url")
                outcomes.append(None)
            except NightshiftError as error:
                outcomes.append((error.code, error.detail, error.pointer))
        assert outcomes[0] == outcomes[1] == outcomes[2], url


def test_a_host_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(Guard, "check_url", lambda self, url, pointer=None: looked.append(url))
    remembering = Remembering(Guard())
    for n in range(3):
        remembering.check_url(f"https://media.example/{n}.mp3")
    assert looked == ["https://media.example/0.mp3"]
