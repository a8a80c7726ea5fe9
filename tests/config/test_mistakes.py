"""What an operator reads about a mistake: where it is, what is wrong, what would be right."""

import pytest

from .files import MINIMAL, complaints, route, with_top


def test_five_mistakes_are_reported_at_once_where_they_are():
    text = """\
workers: many
listen:
  - address: 0.0.0.0:80800
    tls: {}
upstreams:
  chat:
    backends: [127.0.0.1:9001]
timeouts:
  connect: 5
routes:
  - name: chat
    upstream: chatt
"""
    assert complaints(text) == [
        'gateway.yaml:1:10: workers: expected auto or a whole number, found the text "many"'
        " (auto, or digits without quotes)",
        'gateway.yaml:3:14: listen[0].address: "80800" is not a port (a number from 1 to 65535)',
        "gateway.yaml:4:10: listen[0].tls.certificates: this key is required (add it: Certificates;"
        " clients get the one for the name that they ask for (SNI), or the first)",
        "gateway.yaml:9:12: timeouts.connect: expected a duration, found the number 5"
        " (with its unit: 5s for seconds, 5ms for milliseconds)",
        'gateway.yaml:12:15: routes[0].upstream: there is no upstream "chatt" (did you mean chat? there are: chat)',
    ]


def test_a_missing_key_is_reported_at_what_lacks_it():
    assert complaints('listen: [{}]\nroutes:\n  - {name: a}\n  - match: {path: "/"}\n    upstream: b\n') == [
        "gateway.yaml:1:1: upstreams: this key is required (add it: Groups of backends, by name)",
        "gateway.yaml:1:10: listen[0].address: this key is required"
        " (add it: host:port, [::]:port or unix:/path to accept clients on)",
        "gateway.yaml:3:5: routes[0]: nothing says what requests get (one of upstream, upstreams, redirect or respond)",
        "gateway.yaml:4:5: routes[1].name: this key is required"
        " (add it: Unique name, the `route` label of every metric)",
    ]


def test_an_unknown_key_is_reported_with_the_likely_one():
    assert complaints(with_top("max_tunels: 5")) == [
        "gateway.yaml:1:1: max_tunels: unknown key (did you mean max_tunnels? known here: workers,"
        " max_tunnels, listen, trusted_proxies, admin, heads, underscores, access_log, timeouts,"
        " keepalive, drain, upstreams, routes)"
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "timeouts: 5s",
            '1:11: timeouts: expected a mapping, found the text "5s" (lines such as `key: value`)',
        ),
        (
            "admin: {hosts: [gw.example.com:9100]}",
            '1:17: admin.hosts[0]: "gw.example.com:9100" holds a port (the name alone: every port matches)',
        ),
        ("admin: []", "1:8: admin: expected a mapping, found a list (lines such as `key: value`)"),
        ("admin:", "1:7: admin: expected a mapping, found nothing (lines such as `key: value`)"),
        (
            "max_tunnels: [1]",
            "1:14: max_tunnels: expected auto or a whole number, found a list (auto, or digits without quotes)",
        ),
        (
            "max_tunnels: 1.5",
            "1:14: max_tunnels: expected auto or a whole number, found the number 1.5 (auto, or digits without quotes)",
        ),
        (
            "max_tunnels: yes",
            "1:14: max_tunnels: expected auto or a whole number, found true (auto, or digits without quotes)",
        ),
        (
            "max_tunnels: 70k",
            '1:14: max_tunnels: expected auto or a whole number, found the text "70k" (auto, or digits without quotes)',
        ),
        ("max_tunnels: 0", "1:14: max_tunnels: 0 is too small (at least 1)"),
        ("max_tunnels: 1048577", "1:14: max_tunnels: 1048577 is too large (at most 1048576)"),
        ("workers: 0", "1:10: workers: 0 is too small (at least 1)"),
        ("workers: 65", "1:10: workers: 65 is too large (at most 64)"),
        (
            'workers: "4"',
            '1:10: workers: expected auto or a whole number, found the text "4" (auto, or digits without quotes)',
        ),
        (
            "trusted_proxies: 10.0.0.0/8",
            '1:18: trusted_proxies: expected a list, found the text "10.0.0.0/8" (lines such as `- item`)',
        ),
        (
            "trusted_proxies: [10.1.0.0/8]",
            '1:19: trusted_proxies[0]: "10.1.0.0/8" is not a network (10.0.0.0/8 is the network around it)',
        ),
        (
            'trusted_proxies: ["fe80::1%eth0"]',
            '1:19: trusted_proxies[0]: "fe80::1%eth0" is not a network (fe80::1/128 is the network around it)',
        ),
        (
            "trusted_proxies: [all, 10]",
            '1:19: trusted_proxies[0]: "all" is not a network (such as 10.0.0.0/8 or 192.0.2.7)',
        ),
        (
            "access_log: {format: xml}",
            '1:22: access_log.format: the text "xml" is not a choice (choices: json, text)',
        ),
        (
            "access_log: {path: 5}",
            "1:20: access_log.path: expected a path, found the number 5 (a file, - for stdout, or off)",
        ),
        (
            'access_log: {path: "a\\0b"}',
            '1:20: access_log.path: the path "a\\x00b" holds a control character (a file, - for stdout, or off)',
        ),
        (
            "heads: {max_size: 32k}",
            '1:19: heads.max_size: expected a size, found the text "32k" (32KiB)',
        ),
        ("heads: {max_size: 1000B}", "1:19: heads.max_size: 1000B is too small (at least 1KiB)"),
        ("heads: {max_size: 2MiB}", "1:19: heads.max_size: 2MiB is too large (at most 1MiB)"),
        ("heads: {max_fields: 9}", "1:21: heads.max_fields: 9 is too small (at least 10)"),
        (
            "underscores: keep",
            '1:14: underscores: the text "keep" is not a choice (choices: drop, pass, reject)',
        ),
        (
            "timeouts: {http_idle: off}",
            "1:23: timeouts.http_idle: cannot be off (a duration, such as 250ms, 10s, 5m or 1h)",
        ),
        (
            "timeouts: {request_body: off}",
            "1:26: timeouts.request_body: cannot be off (a duration, such as 250ms, 10s, 5m or 1h)",
        ),
        (
            "timeouts: {close: off}",
            "1:19: timeouts.close: cannot be off (a duration, such as 250ms, 10s, 5m or 1h)",
        ),
        (
            "admin: {address: 0.0.0.0:8080, token: x}",
            "2:20: listen[0].address: 0.0.0.0:8080 is listened on already"
            " (an address that no other listener nor `admin` has)",
        ),
    ],
)
def test_a_wrong_value_at_the_top(line, complaint):
    assert complaints(with_top(line))[0] == f"gateway.yaml:{complaint}"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("http: no", "http: false is not a choice (choices: proxy, reject)"),
        (
            "http: rejct",
            'http: the text "rejct" is not a choice (did you mean reject? choices: proxy, reject)',
        ),
        (
            "upgrades: [h2c]",
            "upgrades[0]: h2c cannot be listed: inside its tunnel a client could send any request past"
            " the routes (leave it out; the request is then served as plain HTTP)",
        ),
        (
            "upgrades: websocket",
            'upgrades: expected a list, found the text "websocket" (lines such as `- item`)',
        ),
        (
            "upgrades: [13]",
            'upgrades[0]: expected text, found the number 13 (in quotes, "…", anything is text)',
        ),
        (
            'upgrades: ["a b"]',
            'upgrades[0]: "a b" is not a token (letters, digits and !#$%&\'*+.^_`|~- without spaces)',
        ),
        ("match: {hosts: []}", "match.hosts: is empty (at least one is needed)"),
        (
            "timeouts: {idle: 0s}",
            "timeouts.idle: 0s is too short (at least 1ms, such as 250ms, 10s, 5m or 1h, or off)",
        ),
        (
            "match: {path: /a, path_exact: /b}",
            "match.path_exact: `path` matches the path already (one of path, path_exact or path_regex)",
        ),
        (
            'match: {path_regex: "a(b"}',
            "match.path_regex: not a regular expression: missing ), unterminated subpattern at character 2"
            " (the syntax of Python's re module)",
        ),
    ],
)
def test_a_wrong_value_on_a_route(body, complaint):
    (line,) = complaints(route(body))
    assert line.split(": ", 1)[1] == f"routes[0].{complaint}"


def test_choices_that_are_numbers():
    said = complaints(MINIMAL.replace("upstream: chat", "redirect: {to: /x, status: 200}"))
    assert "redirect.status: the number 200 is not a choice (choices: 301, 302, 303, 307, 308)" in said[0]


def test_names_that_would_need_quotes_in_a_label():
    hint = "(at most 63 letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_`)"
    assert complaints(MINIMAL.replace("name: chat", 'name: "chat room"')) == [
        f'gateway.yaml:5:12: routes[0].name: "chat room" is not a name {hint}'
    ]
    assert complaints(MINIMAL.replace("chat:", "ch@t:").replace("upstream: chat", 'upstream: "ch@t"')) == [
        f'gateway.yaml:3:3: upstreams."ch@t": "ch@t" is not a name {hint}'
    ]


@pytest.mark.parametrize(
    ("pool", "complaint"),
    [
        ("{size: 0}", "53: upstreams.chat.pool.size: 0 is too small (at least 1)"),
        ("{size: 4097}", "53: upstreams.chat.pool.size: 4097 is too large (at most 4096)"),
        ("{idle: off}", "53: upstreams.chat.pool.idle: cannot be off (a duration, such as 250ms, 10s, 5m or 1h)"),
        (
            "5",
            "46: upstreams.chat.pool: expected a mapping or off, found the number 5"
            " (such as {idle: 15s, size: 64}, or off)",
        ),
    ],
)
def test_a_wrong_pool(pool, complaint):
    assert complaints(MINIMAL.replace('9001"]', f'9001"], pool: {pool}')) == [f"gateway.yaml:3:{complaint}"]


def test_upstreams_that_there_are_too_many_of_to_list():
    upstreams = "".join(f"  u{number}: {{backends: ['a:1']}}\n" for number in range(50))
    (line,) = complaints(MINIMAL.replace("routes:\n", upstreams + "routes:\n").replace("upstream: chat", "upstream: x"))
    assert line.endswith("u18 and 31 more)")


def test_two_routes_with_a_name():
    assert complaints(MINIMAL + "  - {name: chat, upstream: chat}\n") == [
        'gateway.yaml:6:12: routes[1].name: an earlier route is named "chat" too'
        " (a unique name, since it labels metrics)"
    ]


def test_a_backend_listed_twice_in_any_spelling():
    backends = '["LOCALHOST:1", {address: "localhost:1"}, "[::0:1]:2", "[::1]:2", 9]'
    assert complaints(MINIMAL.replace('["127.0.0.1:9001"]', backends)) == [
        "gateway.yaml:3:46: upstreams.chat.backends[1].address: the backend localhost:1 is listed twice"
        " (once, with a `weight` for a larger share)",
        "gateway.yaml:3:75: upstreams.chat.backends[3]: the backend [::1]:2 is listed twice"
        " (once, with a `weight` for a larger share)",
        "gateway.yaml:3:86: upstreams.chat.backends[4]: expected an address or a mapping, found the number 9"
        " (127.0.0.1:9001, or {address: 127.0.0.1:9001, weight: 2})",
    ]


def test_the_default_admin_address_can_clash_but_an_unread_one_cannot():
    text = MINIMAL.replace("0.0.0.0:8080", "127.0.0.1:9100")
    for admin in ("", "admin: {}\n"):
        (line,) = complaints(admin + text)
        assert "listen[0].address: 127.0.0.1:9100 is listened on already" in line
    (line,) = complaints("admin:\n  address: ${UNSET}\n" + text)
    assert "admin.address: the environment variable UNSET is not set" in line


def test_rules_about_several_values_run_beside_wrong_ones():
    text = "workers: no\n" + MINIMAL.replace("upstream: chat", "upstream: other, nme: 5")
    places = [line.split(": ")[1] for line in complaints(text)]
    assert places == ["workers", "routes[0].upstream", "routes[0].nme"]


def test_missing_upstreams_are_one_mistake_and_not_one_for_each_route():
    text = "".join(MINIMAL.splitlines(keepends=True)[:1]) + "routes: [{name: a, upstream: a}]\n"
    assert [line.split(": ")[1] for line in complaints(text)] == ["upstreams"]


@pytest.mark.parametrize("section", ["listen: []", "upstreams: {}", "routes: []"])
def test_what_has_no_default_may_not_be_empty_either(section):
    key = section.split(":")[0]
    lines = complaints("\n".join([section, *(line for line in ("listen: [{address: 'a:1'}]",) if key != "listen")]))
    assert f"gateway.yaml:1:{len(key) + 3}: {key}: is empty (at least one is needed)" in lines


def test_a_list_of_wrong_items_is_not_called_empty():
    assert complaints(MINIMAL.replace('{address: "0.0.0.0:8080"}', "7")) == [
        "gateway.yaml:1:10: listen[0]: expected a mapping, found the number 7 (lines such as `key: value`)"
    ]


def test_every_problem_is_one_printable_line():
    text = '"a\\nb\\e[31m": 1\nlisten: [{address: "x\\ny:1"}]\nupstreams: {}\nroutes: []\n'
    lines = complaints(text)
    assert len(lines) == 4
    assert all(line.startswith("gateway.yaml:") and line.isprintable() for line in lines)


def test_what_is_long_is_cut():
    text = with_top(f"{'k' * 500}: 1\nworkers: {'v' * 5000}\nmax_tunnels: {'9' * 90}\n")
    assert all(len(line) < 300 for line in complaints(text))
    assert len(complaints(text)) == 3
