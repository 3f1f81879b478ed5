"""A database of its own for each test."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest


@pytest.fixture
def postgres_url(postgres_server) -> str:
    """The URL of a new, empty database."""
    name = f"gateway_{uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return postgres_server.url.removesuffix("/postgres") + f"/{name}"
