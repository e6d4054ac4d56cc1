"""Fixtures of the fleet's tests."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from agent.fleet import tables
from agent.fleet.store import Store, open_engine
from tests.fleet.databases import Postgres


@pytest.fixture(scope="session")
def postgres():
    # Not under pytest's folder: another run beside this one would close that to the server's user.
    with tempfile.TemporaryDirectory(prefix="qeil-postgres-") as folder:
        made = Postgres(Path(folder))
        yield made
        made.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    """An empty store in each kind of database."""
    if request.param == "sqlite":
        engine = open_engine(f"sqlite:///{tmp_path}/fleet.db")
    else:
        engine = open_engine(request.getfixturevalue("postgres").url)
        with engine.begin() as db:
            for table in tables.metadata.sorted_tables:
                if table.name != tables.layout.name:
                    db.execute(table.delete())
    yield Store(engine)
    engine.dispose()


@pytest.fixture
def clean_postgres(postgres):
    """URL of an empty PostgreSQL database."""
    engine = open_engine(postgres.url)
    tables.metadata.drop_all(engine)
    engine.dispose()
    return postgres.url
