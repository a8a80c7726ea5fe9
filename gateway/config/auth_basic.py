"""User names and passwords (RFC 7617)."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.paths import FilePath
from gateway.config.section import Conflict, Section
from gateway.config.words import found


def _parse_realm(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected text, found {found(value)}", "a name that browsers show, such as chat")
    if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
        raise BadValue("holds characters that a realm cannot have", "ASCII without quotes and backslashes")
    return value


class Basic(Section):
    """Users in a file of ``name:hash`` lines."""

    users: FilePath = Field(
        description="File with a line `name:hash` for each user; hashes are of argon2 or bcrypt (`htpasswd -B`)"
    )
    realm: Annotated[str, PlainValidator(_parse_realm), WithJsonSchema({"type": "string", "minLength": 1})] = Field(
        default="gateway", description="Name that browsers show when they ask for the password"
    )

    def mistakes_in_files(self) -> Iterator[Conflict]:
        """Yield what is wrong with the file. Reads it."""
        from gateway.config.credentials import check_users

        try:
            check_users(self.users)
        except BadValue as error:
            yield Conflict(("users",), error)
