"""The workers' part of what operators see: metrics and the access log.

``events`` has the metrics that change at the rate of handshakes, requests and closes; ``handshakes``, ``requests`` and
``ends`` count and log these; ``access_log`` writes the lines. The supervisor's part is in ``gateway.admin``, which
reads the shared table and the workers' files.
"""
