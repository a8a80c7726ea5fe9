"""What ``gateway demo`` runs behind the gateway.

``echo`` a backend that sends back what it is sent
"""
