"""TLS on a listener."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, Strict

from gateway.config.errors import BadValue
from gateway.config.pem import PemPath, check_ca, mistakes_in_pair
from gateway.config.section import Conflict, Section, value_of


class CertificatePair(Section):
    """A certificate and its key. Paths are absolute."""

    cert: PemPath = Field(description="File of the certificate, followed by those of its issuers, the root left out")
    key: PemPath | None = Field(
        default=None, description="File of the certificate's key; without it the key is in the certificate's file"
    )


class ListenerTls(Section):
    """How clients are served with TLS."""

    certificates: tuple[CertificatePair, ...] = Field(
        min_length=1,
        description="Certificates; clients get the one for the name that they ask for (SNI), or the first",
    )
    min_version: Literal["1.2", "1.3"] = Field(default="1.2", description="Lowest version of TLS that is accepted")
    client_ca: PemPath | None = Field(
        default=None,
        description="File of the CAs that issue clients' certificates: clients must show one (mutual TLS)",
    )
    client_required: Annotated[bool, Strict()] = Field(
        default=True, description="Whether a client without a certificate is refused, where `client_ca` is given"
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield a demand for client certificates that nobody could meet."""
        if value_of(written, "client_required") is not None and value_of(written, "client_ca") is None:
            hint = "`client_ca` with the CAs of the clients' certificates"
            yield Conflict(("client_required",), BadValue("there is no `client_ca`", hint))

    def mistakes_in_files(self) -> Iterator[Conflict]:
        """Yield what is wrong with the files. Reads them."""
        for index, pair in enumerate(self.certificates):
            for name, mistake in mistakes_in_pair(pair.cert, pair.key):
                yield Conflict(("certificates", index, name), mistake)
        if self.client_ca is not None:
            try:
                check_ca(self.client_ca)
            except BadValue as error:
                yield Conflict(("client_ca",), error)
