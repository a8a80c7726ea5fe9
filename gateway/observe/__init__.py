"""What operators see: metrics, the access log, the admin API and the status page.

A worker uses ``events`` (metrics at the rate of handshakes and closes), ``access_log`` and ``ends``. The supervisor
uses ``collector``, ``api`` and ``admin``, which read the shared table and never ask a worker.
"""
