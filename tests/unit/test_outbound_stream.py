import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import httpcore
import pytest

from common.outbound.deadline import Deadline, DeadlinePassed
from common.outbound.stream import Stream, connect


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


def test_a_server_that_always_has_bytes_does_not_outrun_the_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    now = 0.0
    stream = Stream(near, Deadline(10, clock=lambda: now))
    far.sendall(b"abcdef")
    assert stream.read(3) == b"abc"
    now = 10.0
    with pytest.raises(DeadlinePassed):
        stream.read(3)


def test_writes_larger_than_the_socket_s_buffer_arrive_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    body = bytes(range(256)) * 20_000
    got = bytearray()

    def drain() -> None:
        while chunk := far.recv(65536):
            got.extend(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    stream = Stream(near, Deadline(20))
    stream.write(body)
    stream.close()
    reader.join(20)
    assert got == body


def test_a_write_nobody_reads_has_a_limit(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(httpcore.WriteTimeout):
        Stream(pair[0], Deadline(20)).write(bytes(1 << 24), 0.1)


def test_what_httpcore_asks_of_a_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    stream = Stream(near, Deadline(20))
    assert stream.get_extra_info("socket") is near
    assert stream.get_extra_info("ssl_object") is None
    assert stream.get_extra_info("nothing known") is None
    assert not stream.get_extra_info("is_readable")
    far.sendall(b"x")
    assert stream.get_extra_info("is_readable")
    stream.close()
    assert stream.get_extra_info("is_readable")


def test_the_ends_of_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = connect(ip_address("127.0.0.1"), listener.getsockname()[1], Deadline(5), 5)
        accepted, client = listener.accept()
        assert stream.get_extra_info("server_addr") == listener.getsockname()
        assert stream.get_extra_info("client_addr") == client
        accepted.close()
        stream.close()


def test_a_connection_that_is_refused_names_no_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(httpcore.ConnectError) as caught:
        connect(ip_address("127.0.0.1"), port, Deadline(5), 5)
    assert str(caught.value) == "connection refused"


def test_a_connection_that_never_comes_about_ends() -> None:
    """A listener whose backlog is full leaves further connections without an answer, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                waiting.append(filler)
            with pytest.raises(httpcore.ConnectTimeout):
                connect(ip_address("127.0.0.1"), port, Deadline(20), 0.2)
            with pytest.raises(DeadlinePassed):
                connect(ip_address("127.0.0.1"), port, Deadline(0.2), 5)
        finally:
            for filler in waiting:
                filler.close()
