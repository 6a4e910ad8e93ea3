"""Uploads in pieces that were never finished: S3 keeps their pieces, and no listing shows them.

obstore neither lists nor ends them. It signs addresses, though, and what an address carries is
signed too: so a store whose endpoint carries the query of such a request gives one that is signed
with the credentials which the library finds, and they are never seen here.
"""

from __future__ import annotations

import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from engine.data import store_access, stores
from engine.errors import OutputError

_SECONDS = 60
_IGNORED = "x-engine"
"""A name of a parameter that S3 ignores, as all that begin with `x-`: it takes the path that the
library puts behind its endpoint."""
_GOOGLE = (
    "unfinished uploads are not seen in Google's store: a lifecycle rule of the bucket "
    "(AbortIncompleteMultipartUpload) ends them"
)
_AZURE = "Azure drops the pieces of unfinished uploads by itself after a week"


@dataclass(frozen=True)
class Upload:
    """An unfinished upload: the key that it would write, and its number."""

    key: str
    id: str


def why_unknown(url: str) -> str:
    """Why the uploads below a URL cannot be known; "" where they can."""
    scheme = stores.parse(url).scheme
    return "" if scheme in ("s3", "s3a") else _GOOGLE if scheme == "gs" else _AZURE


def unfinished_uploads(url: str) -> Iterator[Upload]:
    """Those below a URL s3://bucket/prefix, page by page.

    Raises:
        OutputError: They cannot be listed.
    """
    bucket, prefix = _bucket(url)
    query = {"uploads": "", "prefix": f"{prefix}/" if prefix else ""}
    while True:
        page = _request(url, "GET", bucket, query)
        for upload in page.iterfind("{*}Upload"):
            yield Upload(_text(upload, "Key"), _text(upload, "UploadId"))
        if _text(page, "IsTruncated") != "true":
            return
        query["key-marker"] = _text(page, "NextKeyMarker")
        query["upload-id-marker"] = _text(page, "NextUploadIdMarker")


def end_upload(url: str, upload: Upload) -> None:
    """Have the store drop the pieces of an upload.

    Raises:
        OutputError: The store refuses.
    """
    bucket, _ = _bucket(url)
    _request(url, "DELETE", f"{bucket}/{quote(upload.key)}", {"uploadId": upload.id})


def _bucket(url: str) -> tuple[str, str]:
    """The address of a bucket, as the library makes it, and the prefix of a URL in it."""
    name, _, prefix = url.partition("://")[2].strip("/").partition("/")
    store = store_access.open_folder(f"s3://{name}")
    address = str(store_access.signed(store, "GET", "_", _SECONDS))
    return address.partition("?")[0].removesuffix("/_"), prefix


def _request(url: str, method: str, address: str, query: dict[str, str]) -> ET.Element:
    name = url.partition("://")[2].partition("/")[0]
    endpoint = f"{address}?{urlencode({**query, _IGNORED: ''})}"
    store = store_access.open_folder(
        f"s3://{name}", endpoint=endpoint, virtual_hosted_style_request="true"
    )
    signed = store_access.signed(store, method, "_", _SECONDS)
    request = urllib.request.Request(signed, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return ET.fromstring(answer.read() or b"<none/>")
    except urllib.error.HTTPError as error:
        reason = f"the store answers {error.code}"
    except (OSError, ET.ParseError) as error:
        reason = type(error).__name__
    raise OutputError(
        f"{url}: unfinished uploads cannot be {'listed' if method == 'GET' else 'ended'}: {reason}",
        "allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or give the bucket a "
        "lifecycle rule (AbortIncompleteMultipartUpload)",
    ) from None  # its text has the signed address


def _text(element: ET.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
