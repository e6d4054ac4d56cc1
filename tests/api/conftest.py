from __future__ import annotations

import httpx
import pytest

from agent.api.server import HttpServer
from agent.schema.settings import HttpSettings
from tests.api.raw import RawClient
from tests.fakes_service import FakeService


@pytest.fixture(scope="module")
def shared():
    """A service with a server; both are as new before every test, but the socket stays open: stopping takes time."""
    service = FakeService()
    server = HttpServer(service, HttpSettings(port=0))
    server.start()
    yield service, server
    server.stop(2.0)


@pytest.fixture
def service(shared):
    service, _ = shared
    yield service
    service.release()
    service.reset()


@pytest.fixture
def server(shared):
    return shared[1]


@pytest.fixture
def serve(service):
    """Start servers of one's own; all are stopped at the end."""
    started: list[HttpServer] = []

    def start(**settings):
        server = HttpServer(service, HttpSettings(**{"port": 0, **settings}))
        server.start()
        started.append(server)
        return server

    yield start
    service.release()
    for server in started:
        server.stop(2.0)


@pytest.fixture
def connect():
    """Raw connections to a port, closed at the end."""
    clients: list[RawClient] = []

    def start(port):
        clients.append(RawClient(port))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def http(server, service):
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        yield client


@pytest.fixture
def infer(http):
    """Post a JSON infer request for model add1 with one row of x; keyword arguments or `entry` change the input."""

    def post(model="add1", parameters=None, headers=None, **changes):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        entry = {**tensor, **changes.pop("entry", {}), **changes}
        document = {"inputs": [{k: v for k, v in entry.items() if v is not None}], "parameters": parameters or {}}
        return http.post(f"/v2/models/{model}/infer", json=document, headers=headers)

    return post
