"""Object stores: their URLs, how they are opened, and what their errors mean.

A URL names a store and an object of it, or the beginning of the names of many:

    s3://bucket/key                             Amazon S3, and what speaks alike (AWS_ENDPOINT_URL)
    gs://bucket/key                             Google Cloud Storage
    az://container/key                          Azure (AZURE_STORAGE_ACCOUNT_NAME), as azure://, adl://
    abfs://container@account.dfs.core.windows.net/key       the same, as abfss://
    http://host/path, https://host/path         one file
    hf://datasets/owner/name@revision/path      the files of a dataset on the Hugging Face hub

Credentials come from the library's own chain: the environment, a profile, the machine's metadata.
What a URL has of secrets (user:password@, a query) is used to connect and shown nowhere.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from engine.data.store_errors import translate
from engine.errors import EngineError, InputError, MissingDependency, SettingsError

_BUCKETS = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
_WEB = ("http", "https")
_HUB = "hf"
WRITABLE = _BUCKETS
"""Schemes of stores that a run may write to."""
READABLE = (*_BUCKETS, *_WEB, _HUB)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.S)
_EXTRA = "pip install 'corpus-engine[stores]'"
_CHAIN = "set them in the environment, such as AWS_ACCESS_KEY_ID, or by a profile"

RETRIES: dict[str, Any] = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
}
"""Requests that a busy or broken server did not answer are sent again by the library."""
TIMEOUTS: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(minutes=5),
}
"""Of a request: until it is connected, between two pieces of the answer, and in all."""


@dataclass(frozen=True)
class StoreUrl:
    """A place in a store.

    Attributes:
        root: The store itself, such as s3://bucket, without secrets.
        key: The object's name in the store, or the beginning of names; "" for all of it.
        user, query: Secrets of a web address; in no text of it.
    """

    root: str
    key: str = ""
    user: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    @property
    def scheme(self) -> str:
        return self.root.partition(":")[0]

    @property
    def is_web(self) -> bool:
        """Whether it is one file of a web server, which lists none."""
        return self.scheme in _WEB

    @property
    def is_hub(self) -> bool:
        return self.scheme == _HUB

    def child(self, name: str) -> StoreUrl:
        """What lies below it: `s3://bucket/folder` and `a.jsonl` are s3://bucket/folder/a.jsonl."""
        folder = self.key.rstrip("/")
        return replace(self, key=f"{folder}/{name}" if folder else name)

    def __str__(self) -> str:
        if not self.key:
            return self.root
        return f"{self.root}/{quote(self.key, safe=_PLAIN) if self.is_web else self.key}"


_PLAIN = "/:@!$&'()*+,;=~-._"


def is_url(text: object) -> bool:
    """Whether a text names a place by scheme, be it known or not: s3://bucket, but not a path."""
    return bool(_URL.fullmatch(str(text)))


def shown(text: object) -> str:
    """A text that may be a URL, as it may be shown: without user, password and query."""
    match = _URL.fullmatch(str(text))
    if not match:
        return str(text)
    host, slash, path = match[2].partition("/")
    if match[1].lower() not in _BUCKETS[:3] or re.search(r"\?[^/]*=", path):
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    host = re.split(r"[?#]", host, maxsplit=1)[0]
    name, at, account = host.rpartition("@")
    if at and (":" in name or not match[1].lower().startswith("abfs")):
        host = account
    return f"{match[1].lower()}://{host}{slash}{path}"


def parse(text: str) -> StoreUrl:
    """The place that a URL names.

    Raises:
        SettingsError: Its scheme is unknown, it names no store, or it holds credentials where they
            are not taken.
    """
    match = _URL.fullmatch(text)
    scheme = match[1].lower() if match else ""
    if not match or scheme not in READABLE:
        raise SettingsError(
            f"{shown(text)}: {scheme or text}:// is no store that is known",
            _OTHER_SCHEMES.get(scheme, f"known are {', '.join(f'{s}://' for s in READABLE)}"),
        )
    host, _, key = match[2].partition("/")
    if not host:
        raise SettingsError(f"{shown(text)}: names no store", f"such as {scheme}://name/folder/")
    if scheme in _WEB:
        return _parse_web(text)
    if scheme == _HUB:
        return _parse_hub(text, host, key)
    if (":" in host or "@" in host) and not (scheme.startswith("abfs") and ":" not in host):
        raise SettingsError(f"{shown(text)}: credentials are not taken from a URL", _CHAIN)
    if re.search(r"\?[^/]*=", f"{host}/{key}"):
        raise SettingsError(f"{shown(text)}: settings are not taken from a URL", _CHAIN)
    return StoreUrl(f"{scheme}://{host}", key)


_OTHER_SCHEMES = {
    "file": "name the path alone, without file://",
    "gcs": "write gs://",
    "s3n": "write s3://",
    "wasb": "write abfs://container@account.dfs.core.windows.net/",
    "wasbs": "write abfs://container@account.dfs.core.windows.net/",
}


def _parse_web(text: str) -> StoreUrl:
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        host = port = ""
    if not host:
        raise SettingsError(f"{shown(text)}: names no host", "such as https://host/rows.jsonl")
    host = f"[{host}]" if ":" in host else host
    user = f"{parts.username or ''}:{parts.password or ''}" if "@" in parts.netloc else ""
    root = f"{parts.scheme}://{host}{port}"
    return StoreUrl(root, unquote(parts.path.lstrip("/")), unquote(user), parts.query)


def _parse_hub(text: str, kind: str, path: str) -> StoreUrl:
    owner, _, rest = path.partition("/")
    name, _, key = rest.partition("/")
    if kind != "datasets" or not owner or not name:
        raise SettingsError(
            f"{shown(text)}: only datasets of the hub are read", "such as hf://datasets/owner/name"
        )
    return StoreUrl(f"{_HUB}://datasets/{owner}/{name}", key)


def check_extra(url: StoreUrl) -> None:
    """Raise MissingDependency where what speaks to a store is not installed."""
    module = "huggingface_hub" if url.is_hub else "obstore"
    try:
        __import__(module)
    except ImportError as error:
        raise MissingDependency(f"{url}: reading it needs {module}", _EXTRA) from error


def open_store(url: StoreUrl) -> Any:
    """The obstore store of a URL, its root: keys are whole. Nothing is sent yet.

    Raises:
        MissingDependency: The extra is not installed.
        SettingsError: The store cannot be opened as the environment has it.
    """
    check_extra(url)
    return _open(replace(url, key=""))


@lru_cache(maxsize=256)
def _open(root: StoreUrl) -> Any:
    from obstore.exceptions import BaseError
    from obstore.store import HTTPStore, from_url

    options = client_options(root)
    try:
        if root.is_web:
            base = f"{root.root}/?{root.query}" if root.query else root.root
            return HTTPStore.from_url(base, client_options=options, retry_config=RETRIES)  # type: ignore[arg-type]  # a plain dict
        return from_url(
            root.root, client_options=options, retry_config=RETRIES, **credentials(root)
        )  # type: ignore[call-overload]  # plain dicts
    except (BaseError, ValueError) as error:
        raise translate(error, str(root), "opened", SettingsError) from None


def client_options(url: StoreUrl) -> dict[str, Any]:
    """How a store is connected to: plain http only where the person named it."""
    options: dict[str, Any] = dict(TIMEOUTS)
    address = url.root if url.is_web else endpoint(url)
    if address.startswith("http://"):
        options["allow_http"] = True
    if url.user:
        token = base64.b64encode(url.user.encode()).decode()
        options["default_headers"] = {"authorization": f"Basic {token}"}
    return options


_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


def endpoint(url: StoreUrl) -> str:
    """The address of a store that the environment names; "" for the vendor's own."""
    kind = {"s3a": "s3", "gs": "gs", "s3": "s3"}.get(url.scheme, "az")
    return next(filter(None, (os.environ.get(name) for name in _ENDPOINTS[kind])), "")


def credentials(url: StoreUrl) -> dict[str, Any]:
    """A profile of S3, which obstore leaves to boto3; nothing where the environment has keys."""
    config: dict[str, Any] = {}
    if url.scheme not in ("s3", "s3a"):
        return config
    if address := os.environ.get("AWS_ENDPOINT_URL_S3"):
        config["endpoint"] = address
    profile = os.environ.get("AWS_PROFILE", "")
    if os.environ.get("AWS_ACCESS_KEY_ID") or not (profile or _has_default_profile()):
        return config
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if not profile:
            return config
        hint = "pip install boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise MissingDependency(
            f"AWS_PROFILE is {profile}: reading it needs boto3", hint
        ) from error
    try:
        return {"credential_provider": Boto3CredentialProvider(boto3.session.Session()), **config}
    except (BotoCoreError, ValueError):
        raise SettingsError(
            f"{url}: the profile {profile or 'default'} has no credentials",
            "add it with `aws configure`, or set AWS_ACCESS_KEY_ID",
        ) from None


def _has_default_profile() -> bool:
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return os.path.isfile(os.path.expanduser(file))


@contextmanager
def talking(
    url: StoreUrl | str, doing: str = "read", kind: type[EngineError] = InputError
) -> Iterator[None]:
    """Translate what obstore and the hub raise into an error of ours that names the object.

    Args:
        url: Of the object or the store.
        doing: What could not be done, in the message: read, listed, written.
        kind: Of the error; a failed credential is one too.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        if not is_of_store(error):
            raise
        # Without its cause: a library's text has the whole address, secrets too.
        raise translate(error, str(url), doing, kind) from None


def is_of_store(error: Exception) -> bool:
    """Whether a store's library raised an error, or Python itself for it."""
    module = type(error).__module__
    known = ("obstore", "huggingface_hub", "requests", "httpx", "botocore")
    return isinstance(error, (OSError, ValueError)) or module.startswith(known)
