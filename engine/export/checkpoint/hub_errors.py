"""What huggingface_hub raises, translated."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from engine.core.suggestions import path_meant
from engine.errors import ExportError
from engine.printable import cut


@contextlib.contextmanager
def hub_errors(model: str, revision: str | None) -> Iterator[None]:
    """Translate what huggingface_hub raises; the most specific classes come first."""
    from huggingface_hub import errors

    at = f"{model} at revision {revision!r}" if revision else model
    try:
        yield
    except errors.GatedRepoError as error:
        raise ExportError(
            f"{model}: the repository is gated and this login has no access",
            "accept its terms on the hub, then log in with: hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ExportError(
            f"{model}: neither a local folder nor a model that the hub shows to this login",
            f"{path_meant(Path(model))}check the spelling; for a private model log in with: "
            "hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ExportError(
            f"{model}: the hub has no revision {revision!r} of it",
            "give a branch, a tag or a 40-hex commit of that repository with --revision",
        ) from error
    except errors.HFValidationError as error:
        raise ExportError(
            f"{model}: neither a local folder nor a hub id", "a hub id reads owner/name"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(model, at, error) from error
    except OSError as error:
        raise ExportError(
            f"{at}: the download failed: {type(error).__name__}: {first_line(error)}",
            "check the network and the free space of the cache folder (HF_HOME), then try again",
        ) from error


def _unreachable(model: str, at: str, error: Exception) -> ExportError:
    from huggingface_hub import constants, errors

    cause, meant = error.__cause__, path_meant(Path(model))
    if isinstance(cause, errors.RevisionNotFoundError):
        return ExportError(f"{at}: the hub has no such revision", "check --revision")
    if constants.HF_HUB_OFFLINE:
        return ExportError(
            f"{at}: not in the hub cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set",
            f"{meant}unset HF_HUB_OFFLINE once to fetch it, or give a local folder",
        )
    why = f" ({type(cause).__name__}: {_reason(cause)})" if cause else ""
    return ExportError(
        f"{at}: no local folder, not in the hub cache, and {constants.ENDPOINT} did not serve it"
        f"{why}",
        f"{meant}check the network or HF_ENDPOINT, or give a local folder",
    )


def _reason(cause: BaseException) -> str:
    """Of what requests says the innermost cause: it nests them, with addresses and ids between."""
    line = first_line(cause)
    for known in (
        "Failed to resolve '[^']+'",
        "Connection refused",
        r"[Rr]ead timed out",
        "timed out",
    ):
        if found := re.search(known, line):
            return found[0]
    return cut(line, 200)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [""])[0]
