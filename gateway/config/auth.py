"""How clients of a route prove who they are: one of JWT, Basic and forward auth."""

from collections.abc import Iterator, Mapping

from pydantic import Field

from gateway.config.auth_basic import Basic
from gateway.config.auth_forward import ForwardAuth
from gateway.config.auth_jwt import Jwt
from gateway.config.errors import BadValue
from gateway.config.section import Conflict, Section

METHODS = ("jwt", "basic", "forward")


class Auth(Section):
    """Who may come in, by credentials. Exactly one method."""

    jwt: Jwt | None = Field(default=None, description="Signed tokens (RFC 7519)")
    basic: Basic | None = Field(default=None, description="User names and passwords (RFC 7617)")
    forward: ForwardAuth | None = Field(default=None, description="A server that is asked about each request")

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield the absence of a method, and every one but the first."""
        given = [name for name in written if name in METHODS]
        if not given:
            yield Conflict((), BadValue("no method is given", "one of `jwt`, `basic` and `forward`"))
        for name in given[1:]:
            error = BadValue(f"there is `{given[0]}` already", "one of `jwt`, `basic` and `forward`")
            yield Conflict((str(name),), error)

    def mistakes_in_files(self) -> Iterator[Conflict]:
        """Yield what is wrong with the files. Reads them."""
        for name, method in (("jwt", self.jwt), ("basic", self.basic), ("forward", self.forward)):
            if method is not None:
                for key, error in method.mistakes_in_files():
                    yield Conflict((name, *key), error)
