"""An object store on this machine, by moto's server, for tests and harnesses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

BUCKET = "bucket"


@dataclass(frozen=True)
class Store:
    """A bucket of moto's server, and boto's client to look into it."""

    endpoint: str
    client: Any

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """The content of every key below a prefix, by its path there."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {name.removeprefix(prefix): self.read(name) for name in names}

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def uploads(self) -> list[str]:
        """Keys of unfinished uploads."""
        listed = self.client.list_multipart_uploads(Bucket=BUCKET)
        return [upload["Key"] for upload in listed.get("Uploads", [])]

    def clear(self) -> None:
        """Remove all keys, and end all uploads."""
        for key in self.contents():
            self.remove(key)
        for upload in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
            self.client.abort_multipart_upload(
                Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"]
            )


def environment(endpoint: str) -> dict[str, str]:
    """What the library finds of a store in the environment."""
    return {
        "AWS_ACCESS_KEY_ID": "key-of-a-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


def client_of(endpoint: str) -> Any:
    """boto's client of a server."""
    import boto3

    secrets = environment(endpoint)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=secrets["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secrets["AWS_SECRET_ACCESS_KEY"],
    )


@contextmanager
def serving() -> Iterator[Store]:
    """A server with an empty bucket, in threads of this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = client_of(endpoint)
        client.create_bucket(Bucket=BUCKET)
        yield Store(endpoint, client)
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def no_stage_left() -> Iterator[None]:
    """No thread of a run is left; those of the server come and go."""
    yield
    stages = ("_publish_all", "_renew_on", "_produce")
    assert [t for t in threading.enumerate() if any(stage in t.name for stage in stages)] == []


@pytest.fixture(scope="session")
def server() -> Iterator[Store]:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    with serving() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Store:
    """An empty bucket that the library finds by the environment, and a cache of one's own."""
    for name, value in environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path_factory.mktemp("cache")))
    server.clear()
    return server
