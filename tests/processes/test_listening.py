"""Listening sockets: one for each worker, never two gateways on an address, and no file but our own removed."""

import os
import socket

import pytest

from gateway.config import Address
from gateway.processes.listening import CannotListen, forget_unix_socket, listen, listen_alone

from ..support.ports import free_port

IPV6 = pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")


@pytest.fixture
def opened():
    """Collects sockets, and closes them."""
    sockets = []
    yield sockets
    for sock in sockets:
        sock.close()


@pytest.fixture
def tcp():
    return Address("127.0.0.1", free_port())


@pytest.fixture
def unix(tmp_path):
    return Address(path=str(tmp_path / "gateway.sock"))


def connect(address, opened):
    """A client's connection."""
    family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    opened.append(sock)
    sock.settimeout(10)
    sock.connect(address.path or (address.host, address.port))
    return sock


def accepted(listeners, opened):
    """Connections that wait on any of the listeners."""
    count = 0
    for listener in listeners:
        while True:
            try:
                opened.append(listener.accept()[0])
            except BlockingIOError:
                break
            count += 1
    return count


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_one_socket_for_each_worker(tcp, opened, workers):
    opened += listen(tcp, workers)
    listeners = opened[:]
    assert len({sock.fileno() for sock in listeners}) == workers
    assert {sock.getsockname() for sock in listeners} == {(tcp.host, tcp.port)}
    for _ in range(20):
        connect(tcp, opened)
    assert accepted(listeners, opened) == 20


def test_connections_are_spread_over_the_workers(tcp, opened):
    opened += listen(tcp, 2)
    first, second = opened[:2]
    for _ in range(64):
        connect(tcp, opened)
    assert accepted([first], opened) > 0
    assert accepted([second], opened) > 0


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_share_a_unix_socket(unix, opened, workers):
    opened += listen(unix, workers)
    listeners = opened[:]
    assert len({sock.fileno() for sock in listeners}) == workers
    connect(unix, opened)
    assert accepted(listeners[-1:], opened) == 1


@IPV6
def test_ipv6_leaves_ipv4_alone(opened):
    port = free_port("::1")
    opened += listen(Address("::", port), 1) + listen(Address("0.0.0.0", port), 1)
    connect(Address("::1", port), opened)
    assert accepted(opened[:1], opened) == 1
    connect(Address("127.0.0.1", port), opened)
    assert accepted(opened[1:2], opened) == 1


def test_an_address_that_is_taken(tcp, opened):
    opened += listen(tcp, 2)
    with pytest.raises(CannotListen, match=rf"cannot listen on {tcp}: Address already in use \(is another gateway"):
        listen(tcp, 2)
    with pytest.raises(CannotListen, match=f"cannot listen on {tcp}: Address already in use"):
        listen_alone(tcp)


def test_an_address_can_be_used_again_at_once(tcp, opened):
    (first,) = listen(tcp, 1)
    client = connect(tcp, opened)
    server = first.accept()[0]
    first.close()
    server.close()  # in TIME_WAIT from now on
    client.close()
    opened += listen(tcp, 2)
    connect(tcp, opened)


def test_an_address_of_another_machine():
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1:8080: .*\(see listen: and admin:"):
        listen(Address("192.0.2.1", 8080), 2)
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1:8080"):
        listen_alone(Address("192.0.2.1", 8080))


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(CannotListen, match="No such file or directory"):
        listen(Address(path=str(tmp_path / "none" / "gateway.sock")), 1)


@pytest.mark.parametrize("opening", [lambda address: listen(address, 2), lambda address: [listen_alone(address)]])
def test_a_socket_file_that_a_killed_gateway_left_behind(unix, opened, opening):
    for sock in opening(unix):
        sock.close()
    assert os.path.exists(unix.path)
    opened += opening(unix)
    listener = opened[-1]
    connect(unix, opened)
    assert accepted([listener], opened) == 1


def test_a_unix_socket_in_use_is_left_alone(unix, opened):
    opened += listen(unix, 1)
    listener = opened[0]
    with pytest.raises(CannotListen, match="Address already in use"):
        listen(unix, 1)
    connect(unix, opened)
    assert accepted([listener], opened) == 2  # the other gateway's look, and the client


def test_a_file_that_is_no_socket_is_left_alone(unix):
    with open(unix.path, "w") as file:
        file.write("precious")
    with pytest.raises(CannotListen, match="Address already in use"):
        listen(unix, 1)
    with open(unix.path) as file:
        assert file.read() == "precious"


def test_forgetting(unix, tcp, opened):
    opened += listen(unix, 1)
    forget_unix_socket(unix)
    assert not os.path.exists(unix.path)
    forget_unix_socket(unix)
    forget_unix_socket(tcp)


def test_alone(tcp, opened):
    opened.append(listen_alone(tcp))
    with pytest.raises(CannotListen):
        listen(tcp, 1)
    connect(tcp, opened)
    assert accepted(opened[:1], opened) == 1


@pytest.mark.parametrize("address", [Address("127.0.0.1", 1), Address("192.0.2.1", 1)])
def test_no_descriptor_is_left_open_by_a_failure(address, opened):
    if address.host == "127.0.0.1":
        address = Address("127.0.0.1", free_port())
        opened += listen(address, 1)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(CannotListen):
        listen(address, 3)
    with pytest.raises(CannotListen):
        listen_alone(address)
    assert set(os.listdir("/proc/self/fd")) <= before
