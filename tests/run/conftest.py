"""A real S3 server on the loopback, for tests of stores that are no folders."""

import logging
import secrets
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def _server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_server: str) -> str:
    """The URL of a prefix in a new bucket; the environment has its end point and credentials."""
    import s3fs

    bucket = f"bucket-{secrets.token_hex(6)}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def _cache(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of tables of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/cache")
