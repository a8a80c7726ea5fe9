"""TLS with other people's implementations: OpenSSL, GnuTLS, BoringSSL (Chromium), JSSE (Java), Node, curl, proxies.

``site``      the gateway that they talk to
``talking``   programs that are typed into: ``openssl s_client``, ``gnutls-cli``
``offering``  ClientHellos of our own, which find out what a server offers
``dribble``   a relay that cuts everything into single bytes
"""
