"""Addresses, durations, hosts, paths and names, as text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import Address, BadValue
from gateway.config.address import parse_backend, parse_listen
from gateway.config.closecodes import parse_close_code
from gateway.config.durations import format_duration, parse_duration, parse_duration_or_off
from gateway.config.keepalive import parse_interval, parse_ping_after
from gateway.config.matching import check_host_pattern, check_path, check_regex
from gateway.config.names import check_name, check_token, check_upgrade
from gateway.config.sizes import format_size, parse_size
from gateway.protocol.closing import may_be_sent

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.text(alphabet="[]:.*%/ux0159afhms-")
)


@pytest.mark.parametrize(
    ("text", "address", "canonical"),
    [
        ("127.0.0.1:9001", Address(host="127.0.0.1", port=9001), "127.0.0.1:9001"),
        ("Chat2.Internal:080", Address(host="chat2.internal", port=80), "chat2.internal:80"),
        ("my_service:1", Address(host="my_service", port=1), "my_service:1"),
        ("[::]:65535", Address(host="::", port=65535), "[::]:65535"),
        ("[2001:DB8:0:0::5]:443", Address(host="2001:db8::5", port=443), "[2001:db8::5]:443"),
        ("[fe80::1%eth0]:80", Address(host="fe80::1%eth0", port=80), "[fe80::1%eth0]:80"),
        ("unix:/run/chat.sock", Address(path="/run/chat.sock"), "unix:/run/chat.sock"),
        ("unix:/" + "a" * 106, Address(path="/" + "a" * 106), "unix:/" + "a" * 106),
    ],
)
def test_addresses(text, address, canonical):
    assert parse_backend(text) == address
    assert str(address) == canonical
    assert parse_backend(canonical) == address


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            8080,
            "expected an address, found the number 8080",
            "127.0.0.1:8080, or 0.0.0.0:8080 to listen everywhere",
        ),
        ("", 'expected an address, found the text ""', "host:port, [::1]:port or unix:/path"),
        (None, "expected an address, found nothing", "host:port, [::1]:port or unix:/path"),
        ("127.0.0.1", '"127.0.0.1" has no port', "127.0.0.1:8080"),
        ("[::1]", '"[::1]" has no port', "[::1]:8080"),
        (":8080", "has no host before the port", "127.0.0.1:8080, or 0.0.0.0:8080 to listen everywhere"),
        ("::1:8080", "an IPv6 address needs brackets", "[::1]:8080"),
        ("[::g]:80", '"::g" is not an IPv6 address', "such as [::1] or [2001:db8::5]"),
        ("[fe80::1%a b]:80", '"a b" is not the name of a network interface', "such as [fe80::1%eth0]"),
        ("a:0", '"0" is not a port', "a number from 1 to 65535"),
        ("a:65536", '"65536" is not a port', "a number from 1 to 65535"),
        ("a:http", '"http" is not a port', "a number from 1 to 65535"),
        ("a:", '"" is not a port', "a number from 1 to 65535"),
        ("a:" + "9" * 200, f'"{"9" * 59}…" is not a port', "a number from 1 to 65535"),
        (
            "256.0.0.1:80",
            '"256.0.0.1" is not an IPv4 address',
            "four numbers from 0 to 255, such as 10.0.0.5",
        ),
        ("10.1:80", '"10.1" is not an IPv4 address', "four numbers from 0 to 255, such as 10.0.0.5"),
        (
            "-a:80",
            '"-a" is not a host name',
            "letters, digits and hyphens between dots, at most 253 characters",
        ),
        ("bücher:80", '"bücher" is not in ASCII', "the name's xn--… form"),
        (
            "ws://chat:80",
            'expected an address, found "ws://chat:80"',
            "no scheme, no path: host:port, [::1]:port or unix:/path",
        ),
        ("unix:", "has no path after `unix:`", "unix:/run/gateway.sock"),
        ("unix:run/chat.sock", 'the path "run/chat.sock" is not absolute', "unix:/run/gateway.sock"),
        ("unix:/a\0b", 'the path "/a\0b" holds a control character', "unix:/run/gateway.sock"),
        ("unix:/" + "a" * 107, "the path has 108 bytes", "at most 107"),
        ("unix:/" + "é" * 54, "the path has 109 bytes", "at most 107"),
    ],
)
def test_what_is_no_address(text, message, hint):
    with pytest.raises(BadValue) as caught:
        parse_backend(text)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "localhost:80", "unix:/run/gateway.sock"])
def test_what_can_be_listened_on(text):
    assert str(parse_listen(text)) == text


def test_a_star_is_every_ipv4_address_as_in_nginx():
    assert str(parse_listen("*:8080")) == "0.0.0.0:8080"


def test_a_name_cannot_be_listened_on():
    with pytest.raises(BadValue, match="cannot listen on the name"):
        parse_listen("chat.example.com:80")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("10s", 10.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1.5s", 1.5),
        ("9ms", 0.009),
        ("8760h", 31536000.0),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert parse_duration_or_off(text) == seconds


@pytest.mark.parametrize("value", ["off", False])
def test_a_duration_that_is_off(value):
    assert parse_duration_or_off(value) is None
    with pytest.raises(BadValue, match="cannot be off"):
        parse_duration(value)


@pytest.mark.parametrize(
    "value",
    ["", "s", "5", 5, 0, 1.5, True, None, [], "5 s", "-5s", "1e3s", "5S", "5d", "1h30m", "\u0665s", "5s\n"],
)
def test_what_is_no_duration(value):
    for parse in parse_duration, parse_duration_or_off:
        with pytest.raises(BadValue):
            parse(value)


@pytest.mark.parametrize("text", ["0s", "0.5ms", "8761h", "999999999999h", "9" * 30 + "s"])
def test_durations_out_of_range(text):
    for parse in parse_duration, parse_duration_or_off:
        with pytest.raises(BadValue):
            parse(text)


def test_a_bare_number_is_told_which_unit_it_may_have_meant():
    for value in 10, "10":
        with pytest.raises(BadValue) as caught:
            parse_duration(value)
        assert caught.value.hint == "with its unit: 10s for seconds, 10ms for milliseconds"


@pytest.mark.parametrize("text", ["1ms", "250ms", "1s", "1.5s", "59s", "90s", "4m", "1h", "36h", "8760h"])
def test_a_duration_is_put_as_it_was_written(text):
    assert format_duration(parse_duration(text)) == text


def test_a_duration_is_put_in_the_largest_unit_that_fits():
    assert [format_duration(parse_duration(text)) for text in ("60s", "3600000ms", "0.5m", "5400s")] == [
        "1m",
        "1h",
        "30s",
        "90m",
    ]


def size(value):
    return parse_size(value, least_bytes=100, most_bytes=1 << 30)


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("100B", 100), ("1024B", 1024), ("32KiB", 32768), ("1MiB", 1 << 20), ("1GiB", 1 << 30)]
)
def test_sizes(text, size_bytes):
    assert size(text) == size_bytes
    assert size(format_size(size_bytes)) == size_bytes


def test_a_size_is_put_in_the_largest_unit_that_fits():
    assert [format_size(n) for n in (0, 100, 1024, 1536, 1 << 20, 3 << 30)] == [
        *("0GiB", "100B", "1KiB", "1536B", "1MiB", "3GiB")
    ]


@pytest.mark.parametrize(
    "value", ["", "1", 1, 16384, "1.5MiB", "-1KiB", "1 KiB", "1kib", "KiB", "1KiB\n", True, None, []]
)
def test_what_is_no_size(value):
    with pytest.raises(BadValue, match="expected a size, found "):
        size(value)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("32k", "32KiB"),
        ("32KB", "32KiB"),
        ("8m", "8MiB"),
        ("8 MiB", "8MiB"),
        (64, "with its unit: 64KiB, or 64B for bytes"),
        ("64", "with its unit: 64KiB, or 64B for bytes"),
        ("much", "such as 16KiB or 1MiB"),
    ],
)
def test_a_size_in_another_form_is_told_the_right_one(value, hint):
    with pytest.raises(BadValue) as caught:
        size(value)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("99B", "99B is too small (at least 100B)"),
        ("2GiB", "2GiB is too large (at most 1GiB)"),
        ("9" * 12 + "GiB", "large"),
    ],
)
def test_sizes_out_of_range(text, message):
    with pytest.raises(BadValue) as caught:
        size(text)
    assert message in str(caught.value)


def test_intervals_of_keepalive_are_of_a_second_or_more():
    assert parse_interval("1s") == parse_ping_after("1000ms") == 1.0
    assert (parse_ping_after("adaptive"), parse_ping_after("off"), parse_ping_after(False)) == ("adaptive", None, None)
    for parse in parse_interval, parse_ping_after:
        for text in ("0s", "0.5ms", "999ms"):
            with pytest.raises(BadValue, match=r"is too short \(at least 1s, such as"):
                parse(text)


@pytest.mark.parametrize("value", ["off", False, "adaptive"])
def test_what_is_no_interval(value):
    with pytest.raises(BadValue):
        parse_interval(value)


@pytest.mark.parametrize("value", ["Adaptive", "auto", 25, "25", True, None, 0, [], {}])
def test_what_is_no_time_to_ping_after(value):
    with pytest.raises(BadValue):
        parse_ping_after(value)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Chat.Example.COM", "chat.example.com"),
        ("*.Example.com", "*.example.com"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::0:1]", "[::1]"),
    ],
)
def test_hosts(text, pattern):
    assert check_host_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*", "`*` is not a host"),
        ("chat.example.com:8080", "holds a port"),
        ("[::1]:80", "holds a port"),
        ("::1", "holds a port"),
        ("a.*.com", "elsewhere than in front"),
        ("*a.com", "elsewhere than in front"),
        ("*.*.com", "elsewhere than in front"),
        ("*.", "is not a host name"),
        ("", "is not a host name"),
        ("a..b", "is not a host name"),
        ("a b", "is not a host name"),
        ("a.com.", "is not a host name"),
        ("https://a.com", "holds a port"),
        ("a.com/ws", "is not a host name"),
        ("*.1.2.3", "is not an IPv4 address"),
        ("a" * 64, "is not a host name"),
        ("a." * 130 + "a", "is not a host name"),
    ],
)
def test_what_is_no_host(text, message):
    with pytest.raises(BadValue) as caught:
        check_host_pattern(text)
    assert message in caught.value.message


@pytest.mark.parametrize("path", ["/", "/ws/", "/a/b;v=1", "/caf%C3%A9", "/a//b", "/...", "/.well-known", "/%20%2F"])
def test_paths(path):
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ws", "does not start with a slash"),
        ("", "does not start with a slash"),
        (None, "expected a path, found nothing"),
        ("/ws?v=1", "is more than a path"),
        ("/ws#a", "is more than a path"),
        ("/a b", "is not a path as requests send it"),
        ("/café", "is not a path as requests send it"),
        ("/100%", "is not a path as requests send it"),
        ("/a/../b", "is not normalised"),
        ("/a/.", "is not normalised"),
        ("/a/..%2fb", "is not normalised"),
        ("/a%5C..", "is not normalised"),
        ("/a/..;b", "is not normalised"),
        ("/a/.%3Bb/c", "is not normalised"),
        ("/%7Euser", "is not normalised"),
        ("/%2e%2e/", "is not normalised"),
        ("/%61", "is not normalised"),
    ],
)
def test_what_is_no_path(path, message):
    with pytest.raises(BadValue, match=message.replace("?", r"\?")):
        check_path(path)


@pytest.mark.parametrize("regex", ["^/rooms/[0-9]+$", "", "/(?i:a)", "[[a]", "a&&b"])
def test_regexes(regex):
    assert check_regex(regex) == regex


@pytest.mark.parametrize(
    "regex", ["[", "(?P<a>", "*", "a{99999999999999}", "(" * 5000, "\\", None, 5, "a" * 9 + "(?i)b"]
)
def test_what_is_no_regex(regex):
    with pytest.raises(BadValue):
        check_regex(regex)


@pytest.mark.parametrize("upgrade", ["h2c", "H2C", "h2c/1", "", "a b", "a/", "/1", "a/b/c", "websocket,", "a\n"])
def test_what_cannot_be_upgraded_to(upgrade):
    with pytest.raises(BadValue):
        check_upgrade(upgrade)


@given(ANYTHING)
def test_any_value_is_taken_or_refused_with_a_reason(value):
    of_text = (check_host_pattern, check_name, check_token, check_upgrade)
    of_anything = (
        parse_backend,
        parse_listen,
        parse_duration,
        parse_duration_or_off,
        parse_interval,
        parse_ping_after,
        size,
        check_path,
        check_regex,
    )
    for check in of_anything + of_text if isinstance(value, str) else of_anything:
        try:
            check(value)
        except BadValue as error:
            assert error.message  # noqa: PT017 - either outcome will do, but not another exception
            assert error.hint  # noqa: PT017 - as above


@given(st.ip_addresses(), st.integers(1, 65535))
def test_any_ip_address_survives_its_canonical_text(ip, port):
    text = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    assert str(parse_listen(text)) == text


@given(st.integers())
@example(1000)
@example(1012)
@example(3000)
@example(4999)
def test_a_close_code_that_is_taken_may_be_sent(code):
    try:
        assert parse_close_code(code) == code
    except BadValue:
        return
    assert may_be_sent(code)


@pytest.mark.parametrize("code", [*(1000, 1001, 1008), *range(1011, 1015), 3000, 3999, 4000, 4999])
def test_close_codes(code):
    assert parse_close_code(code) == code


@pytest.mark.parametrize("code", [0, 999, *range(1002, 1008), 1009, 1010, 1015, 1016, 2999, 5000, -1012, 10**30])
def test_close_codes_that_a_gateway_may_not_send(code):
    with pytest.raises(BadValue) as raised:
        parse_close_code(code)
    assert raised.value.message.endswith(" is not a close code that a gateway may send")
    assert raised.value.hint == "1000, 1001, 1008, 1011 to 1014, or 3000 to 4999"


@given(ANYTHING.filter(lambda value: isinstance(value, bool) or not isinstance(value, int)))
def test_a_close_code_is_a_number(value):
    with pytest.raises(BadValue, match="expected a close code, found "):
        parse_close_code(value)
