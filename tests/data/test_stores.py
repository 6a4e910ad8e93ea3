"""URLs of object stores: what they name, what is shown of them, and what errors say."""

from __future__ import annotations

import pytest

from engine.data import store_errors, stores
from engine.errors import InputError, MissingDependency, SettingsError


@pytest.mark.parametrize(
    ("text", "root", "key"),
    [
        ("s3://bucket", "s3://bucket", ""),
        ("s3://bucket/a/b c.jsonl", "s3://bucket", "a/b c.jsonl"),
        ("s3://bucket/a%20b.jsonl", "s3://bucket", "a%20b.jsonl"),
        ("s3a://bucket/x?.parquet", "s3a://bucket", "x?.parquet"),
        ("gs://bucket/x#y", "gs://bucket", "x#y"),
        ("az://box/x", "az://box", "x"),
        (
            "abfs://box@account.dfs.core.windows.net/x/",
            "abfs://box@account.dfs.core.windows.net",
            "x/",
        ),
        ("https://host:8443/a/b%20c.csv", "https://host:8443", "a/b c.csv"),
        ("http://[::1]:80/x", "http://[::1]:80", "x"),
        (
            "hf://datasets/owner/name@main/data/*.parquet",
            "hf://datasets/owner/name@main",
            "data/*.parquet",
        ),
        ("S3://Bucket/X", "s3://Bucket", "X"),
    ],
)
def test_what_a_url_names(text: str, root: str, key: str) -> None:
    url = stores.parse(text)
    assert (url.root, url.key) == (root, key)
    assert stores.is_url(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x", "ftp:// is no store that is known"),
        ("hdfs://host/x", "known are s3://"),
        ("file:///tmp/x", "name the path alone"),
        ("gcs://bucket/x", "write gs://"),
        ("s3:///x", "names no store"),
        ("hf://models/a/b", "only datasets of the hub"),
        ("hf://datasets/a", "only datasets of the hub"),
        ("s3://KEY:CANARY@bucket/x", "credentials are not taken from a URL"),
        ("s3://CANARY@bucket/x", "credentials are not taken from a URL"),
        ("s3://bucket/x?secret_key=CANARY", "settings are not taken from a URL"),
        ("s3://bucket?secret_key=CANARY", "settings are not taken from a URL"),
        ("abfs://box:CANARY@account/x", "credentials are not taken from a URL"),
        ("http://u:CANARY@:80/x", "names no host"),
        ("http://u:CANARY@host:port/x", "names no host"),
        ("odd://u:CANARY@host/x?q=CANARY", "no store that is known"),
    ],
)
def test_refused_urls_show_no_secret(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        stores.parse(text)
    assert "CANARY" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://u:CANARY@host/a.csv?sig=CANARY#CANARY", "https://host/a.csv"),
        ("https://CANARY@host?CANARY", "https://host"),
        ("s3://bucket/a?.parquet", "s3://bucket/a?.parquet"),
        ("s3://bucket/a?key=CANARY", "s3://bucket/a"),
        ("abfs://box@account.dfs.core.windows.net/a", "abfs://box@account.dfs.core.windows.net/a"),
        ("a/path?x=1", "a/path?x=1"),
    ],
)
def test_what_is_shown_of_a_url(text: str, expected: str) -> None:
    assert stores.shown(text) == expected
    if stores.is_url(text) and not text.startswith("s3://bucket/a?key"):
        url = stores.parse(text)
        assert str(url) == expected
        assert "CANARY" not in repr(url)


@pytest.mark.parametrize("text", ["rows.jsonl", "/a/b", "s3:/bucket", "-", "C:\\x", "a b://c"])
def test_paths_are_no_urls(text: str) -> None:
    assert not stores.is_url(text)


@pytest.mark.parametrize(
    ("text", "environment", "is_plain"),
    [
        ("s3://bucket", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, True),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "https://minio.example"}, False),
        ("s3://bucket", {}, False),
        ("gs://bucket", {"GOOGLE_BASE_URL": "http://127.0.0.1:4443"}, True),
        ("az://box", {"AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:10000/a"}, True),
        ("http://host/x", {}, True),
        ("https://host/x", {}, False),
    ],
)
def test_plain_http_only_where_it_is_named(
    text: str, environment: dict[str, str], is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for names in stores._ENDPOINTS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert stores.client_options(stores.parse(text)).get("allow_http", False) is is_plain


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            FileNotFoundError("Object at location x not found: status code: 404 Not Found: "),
            "no such object",
        ),
        (FileNotFoundError("<Code>NoSuchBucket</Code>"), "no such bucket"),
        (
            ValueError('Could not parse path: Path "a//b" contained empty path segment'),
            "an empty folder",
        ),
        (OSError("Error performing PUT http://169.254.169.254/latest/api/token"), "no credentials"),
        (OSError("HttpError { kind: Timeout, source: TimedOut"), "did not answer in time"),
        (OSError("HttpError { kind: Connect, source: dns error"), "the host is not found"),
        (
            OSError("HttpError { kind: Connect, source: Connection refused"),
            "cannot be connected to",
        ),
        (OSError("status code: 503 SlowDown"), "busy or failing"),
        (OSError("<Code>AuthorizationHeaderMalformed</Code> status code: 400"), "another region"),
        (OSError("Received redirect without LOCATION, this normally indicates"), "another region"),
        (OSError("Account must be specified"), "the storage account is not named"),
        (OSError("<Code>ExpiredToken</Code> status code: 400"), "have expired"),
        (OSError("<Code>InvalidAccessKeyId</Code> status code: 403"), "not accepted"),
        (OSError("something else"), "OSError"),
    ],
)
def test_what_an_error_of_a_store_means(error: Exception, reason: str) -> None:
    ours = store_errors.translate(error, "s3://bucket/key", "read", InputError)
    assert ours.message.startswith("s3://bucket/key: cannot be read: ")
    assert reason in ours.message
    assert ours.hint


def test_a_store_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(MissingDependency, match="needs obstore") as error:
        stores.open_store(stores.parse("s3://bucket/x"))
    assert error.value.hint == "pip install 'corpus-engine[stores]'"


def test_an_error_has_nothing_of_the_library_s_text() -> None:
    with pytest.raises(InputError) as error, stores.talking("https://host/x"):
        raise FileNotFoundError("Error performing GET https://u:CANARY@host/x?sig=CANARY")
    assert "CANARY" not in str(error.value)
    assert error.value.__suppress_context__
