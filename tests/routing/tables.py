"""Routes made of a configuration, as a worker makes them."""

import json

from gateway.config import Config, parse
from gateway.config.settings import Settings
from gateway.routing.matching import Subject
from gateway.routing.registry import Registry
from gateway.routing.routes import Routes

from .standing import FakeStanding


def config_of(routes, upstreams=None, **keys) -> Config:
    """A configuration with these routes (each named after its place, and leading to ``chat``, unless it says)."""
    document = {
        "listen": [{"address": "127.0.0.1:8080"}],
        "upstreams": upstreams or {"chat": {"backends": ["127.0.0.1:9001", "127.0.0.1:9002"]}},
        "routes": [{"name": f"r{i}", **_goal(route), **route} for i, route in enumerate(routes)],
        **keys,
    }
    return parse(json.dumps(document), "gateway.yaml", {})


def _goal(route):
    return {} if route.keys() & {"upstreams", "redirect", "respond"} else {"upstream": "chat"}


def routes_of(*routes, upstreams=None, standing=None, drained=(), secret=b"", **keys) -> Routes:
    """The routes that a worker makes of :func:`config_of`."""
    config = config_of(routes, upstreams, **keys)
    registry = Registry(100, 100)
    registry.admit(config)
    return Routes(Settings.of(config), registry, standing or FakeStanding(), drained, secret)


def found(routes: Routes, path="/", host="chat.example.com", subprotocols=()) -> str | None:
    """The name of the route that a request gets."""
    route = routes.match(Subject(host, path, tuple(subprotocols)))
    return route.name if route else None
