"""Object stores through obstore: opened, and its errors told in our words.

Credentials are found by the library alone, in the environment or on the machine. What it says of an
error may hold the address of a request, which in some stores is a secret, so that only the store's
status and code are passed on.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from typing import Any

from engine.errors import MissingDependency, OutputError, SettingsError

WRITTEN = ("s3", "gs", "az")
"""Schemes of what is written."""
_TRIES = 8
_RETRY_SECONDS = 60
"""For how long a request is tried again; the lease of a lock is longer."""


def is_url(text: object) -> bool:
    """Whether an output is an address such as s3://bucket/out, and no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(text)) is not None


def check_output(url: str) -> None:
    """Raise SettingsError for a URL that is not written, or MissingDependency."""
    scheme, _, place = url.partition("://")
    if scheme not in WRITTEN:
        raise SettingsError(
            f"out is {url}: only local folders, s3://, gs:// and az:// are written",
            "choose another folder with -o",
        )
    bucket, _, prefix = place.partition("/")
    if not bucket or not prefix.strip("/") or "@" in bucket or re.search(r"[?#]|//|\s", place):
        raise SettingsError(
            f"out is {_without_secrets(url)}: not a bucket and a folder in it",
            f"give {scheme}://bucket/folder, and credentials in the environment",
        )
    if {".", ".."} & set(prefix.split("/")):
        raise SettingsError(f"out is {url}: a folder has no . or .. in a store", "leave it out")
    _library()


def open_folder(url: str, patience: int = 30, **config: str) -> Any:
    """The store of a URL, its keys below it.

    Args:
        url: s3://bucket/folder or alike.
        patience: Seconds that one request may take.
        config: Of the store, over what the environment has.

    Raises:
        OutputError: It cannot be opened.
    """
    obstore = _library()
    try:
        return obstore.store.from_url(
            url,
            # Plain HTTP is for an endpoint that says so itself.
            client_options={"timeout": timedelta(seconds=patience), "allow_http": True},
            retry_config={
                "max_retries": _TRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
            **config,
        )
    except errors() as error:
        raise output_error(url, error) from error


def open_writer(store: Any, name: str, size: int) -> Any:
    """A file that is put in pieces of a size, and not at all where its `with` fails."""
    return _library().open_writer(store, name, buffer_size=size)


def signed(store: Any, method: str, name: str, seconds: int) -> str:
    """The signed address of a request."""
    return str(_library().sign(store, method, name, timedelta(seconds=seconds)))


def changed_errors() -> tuple[type[Exception], ...]:
    """What the library raises where a condition of a put does not hold."""
    exceptions = _library().exceptions
    return exceptions.AlreadyExistsError, exceptions.PreconditionError


def errors() -> tuple[type[Exception], ...]:
    """What the library raises besides FileNotFoundError."""
    return _library().exceptions.BaseError, ValueError, OSError


def output_error(where: str, error: Exception) -> OutputError:
    """An error of the library as ours, without what may be secret."""
    kind, text = type(error).__name__, str(error)
    status = re.search(r"status code: (\d{3}(?: [A-Z][A-Za-z]*)*)", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    reason, hint = next(
        ((r, h) for pattern, r, h in _REASONS if re.search(pattern, f"{kind} {text}")),
        (f"the library says {kind}", "look at the store; the same command goes on"),
    )
    if status:
        reason = f"the store answers {status[1]}" + (f" ({code[1]})" if code else "")
    return OutputError(f"{where}: {reason}", hint)


_REASONS = (
    ("NoSuchBucket|ContainerNotFound|bucket does not exist", "there is no such bucket",
     "make it first, or look at its name and region"),
    ("PermissionDenied|Unauthenticated|InvalidAccessKeyId|SignatureDoesNotMatch",
     "the credentials are refused", "look at the credentials and what they may do: list, get, put "
     "and delete in this folder"),
    ("(?i)credential|metadata/identity|169\\.254", "no credentials are found",
     "give them as the store's own tools want them, such as AWS_ACCESS_KEY_ID and "
     "AWS_SECRET_ACCESS_KEY, or a role of the machine"),
    ("(?i)timed out|timeout", "the store takes too long",
     "run the same command again, which goes on where this one stopped"),
    ("(?i)HTTP error|error sending request|connect|dns", "the store cannot be reached",
     "look at the network and the store's address; the same command goes on"),
    ("InvalidPath|NotSupported", "the store has no such name or no puts on a condition",
     "choose another folder with -o"),
)  # fmt: skip


def _without_secrets(url: str) -> str:
    scheme, _, place = re.split(r"[?#]", url)[0].partition("://")
    return f"{scheme}://{place.rpartition('@')[2]}"


def _library() -> Any:
    with suppress(ImportError):
        import obstore
        import obstore.exceptions
        import obstore.store

        return obstore
    raise MissingDependency(
        "outputs in object stores need obstore", 'pip install "corpus-engine[stores]"'
    )
