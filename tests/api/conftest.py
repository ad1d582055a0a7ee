"""One daemon with the engine and its API for the tests of this room."""

from tests.engine.conftest import docker_clients, host

__all__ = ["docker_clients", "host"]
