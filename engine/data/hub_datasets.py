"""Datasets of the Hugging Face hub, read through its file system; nothing is ever written there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from engine.data.stores import StoreUrl, check_extra, talking


@lru_cache(maxsize=1)
def _file_system() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem(use_listings_cache=False)


def pinned(url: StoreUrl) -> StoreUrl:
    """The dataset at the commit that its revision names now, so that a run reads one version.

    Raises:
        MissingDependency: The hub's library is not installed.
        InputError: There is no such dataset or revision, or it is not open.
    """
    check_extra(url)
    from huggingface_hub import HfApi

    name, _, revision = url.root.removeprefix("hf://datasets/").partition("@")
    with talking(url):
        commit = HfApi().dataset_info(name, revision=revision or None).sha
    return replace(url, root=f"hf://datasets/{name}@{commit}")


def listed(url: StoreUrl) -> Iterator[tuple[str, int, str]]:
    """(key, bytes, what changes with them) of the files at or below a place, sorted by key."""
    place = f"{_place(url)}/{url.key}".rstrip("/")
    with talking(url, "listed"):
        found = _file_system().find(place, detail=True, withdirs=False)
    for name, info in sorted(found.items()):
        key = name.removeprefix(f"{_place(url)}/")
        identity = (info.get("lfs") or {}).get("sha256") or info.get("blob_id") or ""
        yield key, int(info["size"]), str(identity)


def fetch(url: StoreUrl, start: int, stop: int) -> memoryview:
    """A range of a file's bytes."""
    return memoryview(_file_system().cat_file(f"{_place(url)}/{url.key}", start=start, end=stop))


def _place(url: StoreUrl) -> str:
    return url.root.removeprefix("hf://")
