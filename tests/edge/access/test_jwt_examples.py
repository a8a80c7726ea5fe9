"""Tokens of the RFCs."""

from base64 import urlsafe_b64decode

import pytest

from gateway.edge.access.granted import Expiry
from tests.support.tokens import key_set

from .jwts import at, jwt, let_in, refusal

EXPIRY_OF_THE_RFC = 1300819380
PAYLOAD_OF_THE_RFC = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"

HS256_OF_THE_RFC = (
    f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD_OF_THE_RFC}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)
K = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
RSA = {
    "kty": "RSA",
    "e": "AQAB",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
    "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
    "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
    "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
}
RS256_OF_THE_RFC = (
    f"eyJhbGciOiJSUzI1NiJ9.{PAYLOAD_OF_THE_RFC}."
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAc"
    "QjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEs"
    "qtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
P256 = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
ES256_OF_THE_RFC = (
    f"eyJhbGciOiJFUzI1NiJ9.{PAYLOAD_OF_THE_RFC}."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
EDDSA_OF_THE_RFC = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)


def test_hs256_of_rfc_7515_appendix_a1():
    secret = urlsafe_b64decode(K + "==").decode("utf-8", "surrogateescape")  # as a variable with such bytes has them
    method = jwt(secret=secret, issuer=("joe",), require=(("http://example.com/is_root", "true"),), clock=at(1.3e9))
    assert let_in(method, HS256_OF_THE_RFC).expiry == Expiry(EXPIRY_OF_THE_RFC, 4401, 10.0)


@pytest.mark.parametrize(
    ("algorithm", "key", "token"),
    [("RS256", RSA, RS256_OF_THE_RFC), ("ES256", P256, ES256_OF_THE_RFC)],
    ids=["RFC 7515 A.2", "RFC 7515 A.3"],
)
def test_keys_of_rfc_7515(algorithm, key, token):
    method = jwt(key_set(key), algorithms=(algorithm,), issuer=("joe",), clock=at(1.3e9))
    assert let_in(method, token).expiry.at_unix == EXPIRY_OF_THE_RFC
    changed = token[:-3] + ("AAA" if not token.endswith("AAA") else "BBB")
    assert refusal(method, changed).status == 401


def test_eddsa_of_rfc_8037():
    """Its payload is not JSON, which is seen once the signature is right."""
    method = jwt(key_set(ED25519), algorithms=("EdDSA",))
    assert refusal(method, EDDSA_OF_THE_RFC).reason == "the token is malformed"
    header, _, signature = EDDSA_OF_THE_RFC.split(".")
    assert refusal(method, f"{header}.e30.{signature}").reason == "the token's signature is wrong"


def test_unsecured_and_encrypted_of_rfc_7519():
    unsecured = f"eyJhbGciOiJub25lIn0.{PAYLOAD_OF_THE_RFC}."
    assert refusal(jwt(clock=at(1.3e9)), unsecured).status == 401
    assert refusal(jwt(), "eyJhbGciOiJSU0ExXzUifQ.QR1Owv2ug2.AxY8DCtDaGls.MKOle7UQrG6n.XFBoMYUZodet").reason == (
        "encrypted tokens are not accepted"
    )
