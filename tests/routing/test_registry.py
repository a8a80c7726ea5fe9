"""Numbers for names: a route's is never given to another one, a backend's only when nothing refers to it any more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.registry import FREE, Registry, RegistryFull, Vacancies

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
    with pytest.raises(ValueError, match=r"no number for 127\.0\.0\.1:9001 of x"):
        registry.backend("x", "127.0.0.1:9001")


@pytest.mark.parametrize(("max_routes", "max_backends", "what"), [(1, 2, "1 route names since"), (2, 1, "1 backends")])
def test_full(max_routes, max_backends, what):
    registry = Registry(max_routes, max_backends)
    with pytest.raises(RegistryFull, match=f"more than {what}"):
        registry.admit(config_of([{}, {}]))
    assert (registry.routes, registry.backends) == ([], [])


def test_full_to_the_brim():
    registry = Registry(2, 2)
    for _ in range(2):
        registry.admit(config_of([{}, {}]))
    assert (len(registry.routes), len(registry.backends)) == (2, 2)


def test_a_number_that_is_free_is_used_again_under_another_generation():
    registry = Registry(9, 3)
    registry.admit_backends([("chat", f"a:{n}") for n in (1, 2, 3)])
    worker = Registry(9, 3)
    assert worker.use(registry) == frozenset()
    with pytest.raises(RegistryFull):
        registry.admit_backends([("chat", "a:4")])
    registry.free(1)
    assert registry.addresses() == ["a:1", "a:3"]
    registry.admit_backends([("chat", "a:3"), ("chat", "a:4")])
    assert registry.backends == [("chat", "a:1"), ("chat", "a:4"), ("chat", "a:3")]
    assert worker.use(registry) == {1}
    assert worker == registry
    assert worker.use(registry) == frozenset()


def test_numbers_of_thousands_are_found_without_a_search_for_each():
    searched = []

    class Searched(list):
        def __iter__(self):
            searched.append("all")
            return super().__iter__()

        def index(self, *arguments):
            searched.append("index")
            return super().index(*arguments)

    keys = [("chat", f"a:{n}") for n in range(4096)]
    registry = Registry(1, 4096, [], Searched(keys))
    assert [registry.backend(*key) for key in keys] == list(range(4096))
    registry.free(9)
    registry.admit_backends([("chat", "b:1")])
    searched.clear()
    assert [registry.backend("chat", name) for name in ("b:1", "a:8", "a:10")] == [9, 8, 10]
    assert len(searched) <= 2
    with pytest.raises(ValueError, match="no number for a:9 of chat"):
        registry.backend("chat", "a:9")


def test_numbers_rest_before_they_are_used_again():
    registry = Registry(9, 9, [], [("chat", "a:1"), ("chat", "a:2"), FREE])
    vacancies = Vacancies(rest_seconds=60)
    assert vacancies.look(registry, {1}, 0) == []
    assert vacancies.look(registry, {1}, 59) == []
    assert vacancies.look(registry, {1}, 60) == [0]
    assert vacancies.look(registry, {0}, 61) == []  # it has come back, and 1 has gone
    assert vacancies.look(registry, (), 120) == []
    assert vacancies.look(registry, (), 121) == [1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 30), max_size=6),  # backends that there are from now on
            st.sets(st.integers(0, 30), max_size=2),  # those of them that get a tunnel which lives for a while
            st.integers(1, 40),  # seconds until the next change
        ),
        max_size=60,
    )
)
def test_thousands_of_changes_need_few_numbers_and_no_number_is_anothers(changes):
    """The registry has room for what there can be at once: six, what has gone within a minute, and live tunnels."""
    registry = Registry(1, 4096)
    vacancies = Vacancies(60)
    tunnels: dict[int, tuple[tuple[str, str], float]] = {}
    last_meant: dict[int, tuple[tuple[str, str], float]] = {}
    now = 0.0
    for there, busy, seconds in changes:
        keys = [("chat", f"b:{n}") for n in sorted(there)]
        registry.admit_backends(keys)
        numbers = {registry.backend(*key): key for key in keys}
        for number, key in numbers.items():
            before = last_meant.get(number)
            assert before is None or before[0] == key or now - before[1] >= 60
            if int(key[1][2:]) in busy:
                tunnels[number] = (key, now + 100)
        tunnels = {number: each for number, each in tunnels.items() if each[1] > now}
        for number, (key, _) in tunnels.items():
            assert registry.backends[number] == key
        referred = numbers.keys() | tunnels.keys()
        last_meant |= {number: (registry.backends[number], now) for number in referred}
        now += seconds
        for number in vacancies.look(registry, referred, now):
            registry.free(number)
    assert len(registry.backends) <= 31
