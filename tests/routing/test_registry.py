"""Numbers for names: given out once, and never to another name."""

import pytest

from gateway.routing.registry import Registry, RegistryFull

from .tables import config_of


def test_numbers_stay():
    registry = Registry(10, 10)
    registry.admit(config_of([{"name": "a"}, {"name": "b"}]))
    registry.admit(config_of([{"name": "c"}, {"name": "a"}]))
    registry.admit(config_of([{"name": "b"}]))
    assert [registry.route(name) for name in "abc"] == [0, 1, 2]
    assert registry.backend("chat", "127.0.0.1:9002") == 1
    assert registry.routes == ["a", "b", "c"]
    assert len(registry.backends) == 2


def test_an_address_in_two_upstreams_is_two_backends():
    registry = Registry(10, 10)
    registry.admit(config_of([{}], {"chat": {"backends": ["a:1"]}, "other": {"backends": ["a:1", "[::1]:1"]}}))
    numbers = [registry.backend("chat", "a:1"), registry.backend("other", "a:1"), registry.backend("other", "[::1]:1")]
    assert numbers == [0, 1, 2]


def test_unknown_names():
    registry = Registry(10, 10)
    registry.admit(config_of([{}]))
    with pytest.raises(ValueError, match="is not in list"):
        registry.route("x")
    with pytest.raises(ValueError, match="is not in list"):
        registry.backend("x", "127.0.0.1:9001")


@pytest.mark.parametrize(("max_routes", "max_backends", "what"), [(1, 2, "1 route names"), (2, 1, "1 backends")])
def test_full(max_routes, max_backends, what):
    registry = Registry(max_routes, max_backends)
    with pytest.raises(RegistryFull, match=f"more than {what}.*restart"):
        registry.admit(config_of([{}, {}]))
    assert (registry.routes, registry.backends) == ([], [])


def test_full_to_the_brim():
    registry = Registry(2, 2)
    for _ in range(2):
        registry.admit(config_of([{}, {}]))
    assert (len(registry.routes), len(registry.backends)) == (2, 2)
