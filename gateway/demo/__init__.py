"""What ``gateway demo`` runs behind the gateway.

``echo``  a backend that echoes WebSocket messages
"""
