"""What writing to object stores needs of obstore, besides what `stores` has for reading."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from engine.data import stores
from engine.data.store_errors import translate
from engine.errors import OutputError, SettingsError

WRITTEN = "only local folders, s3://, gs:// and az:// are written"
_PUT_SECONDS = 60
"""For how long a put is tried again; the lease of a lock is longer."""


def check_output(url: str) -> None:
    """Refuse a URL that is not written.

    Raises:
        SettingsError: It is of no store, or names no folder in one.
        MissingDependency: The extra is not installed.
    """
    if url.partition(":")[0].lower() not in stores.WRITABLE:
        raise SettingsError(f"out is {stores.shown(url)}: {WRITTEN}", "choose another with -o")
    place = stores.parse(url)
    names = place.key.rstrip("/").split("/")
    if not all(name.strip() for name in names) or {".", ".."} & set(names):
        raise SettingsError(
            f"out is {place}: not a folder in a bucket",
            f"such as {place.root}/folder, without an empty name, . or ..",
        )
    stores.check_extra(place)


def open_folder(url: str, patience: int = 30, **config: str) -> Any:
    """The store of a URL, its keys below it.

    Args:
        url: s3://bucket/folder or alike.
        patience: Seconds that one request may take.
        config: Of the store, over what the environment has.

    Raises:
        SettingsError: It cannot be opened as the environment has it.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    place = stores.parse(url.rstrip("/"))
    options = {**stores.client_options(place), "timeout": timedelta(seconds=patience)}
    retries = {**stores.RETRIES, "retry_timeout": timedelta(seconds=_PUT_SECONDS)}
    settings = {**stores.credentials(place), **config}
    try:
        return from_url(str(place), client_options=options, retry_config=retries, **settings)  # type: ignore[call-overload]  # plain dicts
    except (BaseError, ValueError) as error:
        raise translate(error, str(place), "opened", SettingsError) from None


def open_writer(store: Any, name: str, size: int) -> Any:
    """A file that is put in pieces of a size, and not at all where its `with` fails."""
    import obstore

    return obstore.open_writer(store, name, buffer_size=size)


def signed(store: Any, method: Any, name: str, seconds: int) -> str:
    """The signed address of a request."""
    import obstore

    return str(obstore.sign(store, method, name, timedelta(seconds=seconds)))


def changed_errors() -> tuple[type[Exception], ...]:
    """What the library raises where a condition of a put does not hold."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    return AlreadyExistsError, PreconditionError


def output_error(where: str, error: Exception) -> OutputError:
    """An error of the library as ours, without what may be secret."""
    wrong = translate(error, where, "reached or written", OutputError)
    return OutputError(wrong.message, wrong.hint)
