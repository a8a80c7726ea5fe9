"""Texts of users and keys in a worker, and who waits for others."""

import pytest

from gateway.edge.access.credentials import Credentials

URL, OTHER, FILE = "https://auth.example/keys", "https://other.example/keys", "/etc/gateway/users"


class Rig:
    def __init__(self):
        self.asked = []
        self.credentials = Credentials(self.asked.append)
        self.credentials.use({URL: "old", FILE: "users"})
        self.called = []

    def ask(self, name, source=URL):
        return self.credentials.ask_again(source, lambda: self.called.append((name, self.credentials.text(source))))


@pytest.fixture
def rig():
    return Rig()


def test_texts(rig):
    assert rig.credentials.text(URL) == "old"
    assert rig.credentials.text(OTHER) is None


def test_the_same_text_is_the_same_object(rig):
    before = rig.credentials.text(FILE)
    rig.credentials.use({URL: "new", FILE: "".join(("us", "ers"))})
    assert rig.credentials.text(FILE) is before


def test_many_that_ask_are_one_question(rig):
    rig.ask("a")
    rig.ask("b")
    rig.ask("c", OTHER)
    assert rig.asked == [URL, OTHER]
    rig.credentials.use({URL: "new", FILE: "users"})
    assert rig.called == [("a", "new"), ("b", "new")]
    rig.credentials.answered(URL)
    assert len(rig.called) == 2
    rig.ask("d")
    assert rig.asked == [URL, OTHER, URL]


def test_an_answer_that_says_the_same(rig):
    rig.ask("a")
    rig.credentials.use({URL: "old", FILE: "others"})
    assert rig.called == []
    rig.credentials.answered(URL)
    assert rig.called == [("a", "old")]


def test_a_source_that_is_gone(rig):
    rig.ask("a")
    rig.credentials.use({FILE: "users"})
    assert rig.called == [("a", None)]


def test_who_went_away_is_not_called(rig):
    forget_a = rig.ask("a")
    rig.ask("b")
    forget_a()
    forget_a()
    rig.credentials.answered(URL)
    assert rig.called == [("b", "old")]


def test_when_all_went_away_the_next_asks_again(rig):
    rig.ask("a")()
    rig.ask("b")
    assert rig.asked == [URL, URL]


def test_who_asks_when_called_waits_for_another_answer(rig):
    rig.credentials.ask_again(URL, lambda: rig.ask("again"))
    rig.credentials.answered(URL)
    assert rig.asked == [URL, URL]
    assert rig.called == []
    rig.credentials.answered(URL)
    assert rig.called == [("again", "old")]
