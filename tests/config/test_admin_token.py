"""The admin address's token: what may be one, and where there has to be one."""

import pytest

from gateway.config import ConfigError, load_admin

from .files import complaints, config_of, with_top

pytestmark = pytest.mark.either_build


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9100", "127.9.9.9:1", "[::1]:9100", "localhost:9100", "unix:/run/a.sock"]
)
def test_none_is_needed_on_this_machine(address):
    assert config_of(with_top(f'admin: {{address: "{address}"}}')).admin.token is None


@pytest.mark.parametrize("address", ["0.0.0.0:9100", "[::]:9100", "10.0.0.1:9100", "*:9100"])
@pytest.mark.parametrize("token", ["", ", token: ''", ', token: "${NONE:-}"'])
def test_one_is_needed_elsewhere(address, token):
    (line,) = complaints(with_top(f'admin: {{address: "{address}"{token}}}'))
    assert "admin.address: other machines can connect to" in line
    assert config_of(with_top(f'admin: {{address: "{address}", token: a.b-c_d~e+f/g==}}')).admin.token


@pytest.mark.parametrize("token", ["'a b'", "5", "[a]", "'é'", "'a=b'", r'"a\nb"'])
def test_what_is_no_token(token):
    (line,) = complaints(with_top(f"admin: {{token: {token}}}"))
    assert line.startswith("gateway.yaml:1:16: admin.token: ")


def test_it_is_not_printed():
    config = config_of(with_top("admin: {token: s3cret}"))
    assert "s3cret" not in repr(config)
    (line,) = complaints(with_top("admin: {token: 's3cret s3cret'}"))
    assert "s3cret" not in line


@pytest.mark.parametrize("rest", ["", "\nnonsense: 1"])
def test_a_command_may_have_another_one(tmp_path, rest):
    """So the variable that the gateway has need not be set where the command runs."""
    file = tmp_path / "gateway.yaml"
    file.write_text(with_top('admin: {address: "0.0.0.0:9100", token: "${ADMIN_TOKEN}"}' + rest))
    with pytest.raises(ConfigError, match="ADMIN_TOKEN is not set"):
        load_admin(file, {})
    assert load_admin(file, {}, "given").token == "given"
    assert load_admin(file, {"ADMIN_TOKEN": "other"}, "given").token == "given"
    assert str(load_admin(file, {}, "given").address) == "0.0.0.0:9100"
