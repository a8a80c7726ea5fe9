"""Certificates for tests: authorities, and what they issue, as PEM files."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Files(NamedTuple):
    """A certificate, with those between it and its authority behind it, and its key."""

    cert: Path
    key: Path

    @property
    def section(self) -> dict[str, str]:
        """As the configuration has it."""
        return {"cert": str(self.cert), "key": str(self.key)}


class Authority:
    """An authority. ``ca`` is the PEM file of its certificate."""

    def __init__(self, directory: Path, name: str = "Test Authority", parent: Authority | None = None) -> None:
        """
        :param directory: for all files, those of issued certificates too
        :param parent: which issues this one; none for a root
        """
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._parent = parent
        issuer = parent or self
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        self.certificate = (
            _builder(self._name, issuer._name, self._key, -DAY, 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer._key.public_key()), critical=False)
            .sign(issuer._key, hashes.SHA256())
        )
        self.ca = directory / f"{name.lower().replace(' ', '-')}.pem"
        self.ca.write_bytes(_pem(self.certificate))

    def issue(
        self,
        *names: str,
        kind: str = "p256",
        starts: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 90 * DAY,
        client: bool = False,
        file: str | None = None,
        subject: str | None = None,
    ) -> Files:
        """Issue a certificate.

        :param names: host names (``*.`` too) and addresses
        :param kind: of its key: ``p256``, or ``rsa``, which is the same one each time
        :param starts: when it becomes valid, from now; ``ends`` likewise
        :param client: for a client instead of a server
        :param file: name of the files, without suffix; the first name by default
        :param subject: common name; the first name by default
        """
        key: PrivateKey = ec.generate_private_key(ec.SECP256R1()) if kind == "p256" else _rsa_key()
        common = subject if subject is not None else names[0]
        builder = (
            _builder(_name(common), self._name, key, starts, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = file or common.replace("*", "any").replace(":", "-").replace("/", "-").replace(" ", "-")
        files = Files(self.directory / f"{stem}.pem", self.directory / f"{stem}.key")
        chain = _pem(certificate)
        authority: Authority | None = self
        while authority is not None and authority._parent is not None:
            chain += _pem(authority.certificate)
            authority = authority._parent
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files.cert.write_bytes(chain)
        return files


@functools.cache
def _rsa_key() -> rsa.RSAPrivateKey:
    """One for all, as looking for its primes takes longer than a test."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, starts: datetime.timedelta, ends: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
