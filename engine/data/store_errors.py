"""What the errors of object stores mean, in our words.

The libraries put the whole address of a request into their texts, and what a server answered. None
of it is repeated: a text is only searched for what it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import EngineError

CHANGED = "changed while it was read"
EXISTS = "is there already"
BROKE = "the connection broke"
LATE = "the server did not answer in time"


@dataclass(frozen=True)
class _Meaning:
    """What is wrong where the name of an error or its text matches.

    Attributes:
        pattern: Of the class's name, a colon and the text, in lower case.
        reason, hint: In our words.
    """

    pattern: str
    reason: str
    hint: str


_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or "
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
_LATER = "run the same command again: it goes on where it stopped"
_MEANINGS = tuple(
    _Meaning(*row)
    for row in (
        (
            r"nosuchbucket|containernotfound|bucket does not exist",
            "no such bucket",
            "check the name, and the account or endpoint it belongs to",
        ),
        (
            r"repositorynotfound|gatedrepo",
            "no such dataset, or it is not open to you",
            "check the name, or log in with `hf auth login`",
        ),
        (r"revisionnotfound", "no such revision of the dataset", "check what stands behind the @"),
        (
            r"missingaccount|account must be specified",
            "the storage account is not named",
            "set AZURE_STORAGE_ACCOUNT_NAME, or name it: abfs://container@account.dfs.core.windows.net/",
        ),
        (
            r"169\.254\.169\.254|169\.254\.170\.2|metadata\.google|metadata/identity|imds"
            r"|nocredentials|failed to get .*credential|missing.*credential",
            "no credentials were found",
            f"set {_KEYS}{_AZURE}; for a public bucket AWS_SKIP_SIGNATURE=true or its like",
        ),
        (
            r"expiredtoken|tokenexpired|request has expired",
            "the credentials have expired",
            "renew them",
        ),
        (
            r"invalidaccesskeyid|signaturedoesnotmatch|invalidtoken|authenticationfailed"
            r"|unauthenticated|status(?: code)?: 401",
            "the credentials are not accepted",
            f"check {_KEYS}{_AZURE}",
        ),
        (
            r"permanentredirect|authorizationheadermalformed|illegallocationconstraint"
            r"|received redirect without location|status(?: code)?: 30[17]",
            "the bucket is in another region",
            "set AWS_REGION to the bucket's region",
        ),
        (
            r"^preconditionerror|status(?: code)?: 412|^notmodified",
            CHANGED,
            "run again when nothing writes it",
        ),
        (r"alreadyexists", EXISTS, "choose another name"),
        (
            r"^permissiondenied|accessdenied|status(?: code)?: 403",
            "permission denied",
            "check what the credentials may do there, and the name of the bucket",
        ),
        (
            r"^filenotfound|^entrynotfound|status(?: code)?: 404|nosuchkey",
            "no such object",
            "check the name",
        ),
        (
            r"range request not supported|rangenotsupported",
            "the server sends no ranges of bytes",
            "download the file, and name that",
        ),
        (
            r"missingcontentlength|content-length",
            "the server does not say how long it is",
            "download the file, and name that",
        ),
        (
            r"missingetag|etag header|e-tag",
            "the server gives no e-tag",
            "download it, and name that",
        ),
        (
            r"invalidpath|could not parse path|empty path segment|illegal character",
            "a name has an empty folder, a dot for one, or a control character, which is not read",
            "rename the object, or name what lies beside it",
        ),
        (
            r"dns error|failed to lookup|name or service not known|nodename|getaddrinfo",
            "the host is not found",
            "check the address, AWS_ENDPOINT_URL and the network",
        ),
        (
            r"certificate|invalid peer|handshake",
            "the server's certificate is not accepted",
            "check the address, and SSL_CERT_FILE where the authority is your own",
        ),
        (
            r"kind: timeout|timedout|timed out|^readtimeout|^connecttimeout",
            LATE,
            f"check the network, or {_LATER}",
        ),
        (
            r"kind: connect|connection refused|^connectionerror|^connecterror",
            "cannot be connected to",
            "check the address, AWS_ENDPOINT_URL and the network",
        ),
        (
            r"slowdown|serverbusy|internalerror|status(?: code)?: (429|50[0234])",
            "the server is busy or failing",
            _LATER,
        ),
        (
            r"kind: (interrupted|decode|body|unknown)|incomplete|connection (reset|closed)|broken"
            r"|error decoding|unexpected eof|body",
            BROKE,
            f"check the network, or {_LATER}",
        ),
        (
            r"notsupported|not implemented|501",
            "the server does not support it",
            "check that the endpoint is one of this kind of store",
        ),
        (
            r"unknownconfiguration|config",
            "the store's settings are wrong",
            "check the variables of the environment, such as AWS_REGION and AWS_ENDPOINT_URL",
        ),
    )
)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.I)
_TIMES = re.compile(r"\d+(\.\d+)?(ns|µs|ms|s)\b")


def translate(error: Exception, where: str, doing: str, kind: type[EngineError]) -> EngineError:
    """An error that says what is wrong with an object of a store.

    Args:
        error: What the library raised.
        where: The URL as it is shown.
        doing: What was not done: read, listed, written.
        kind: Of the result.
    """
    name = type(error).__name__
    text = f"{name}: {error}".lower()
    # Not what an address, a key or a duration happens to have in it.
    searched = _TIMES.sub("", _ADDRESS.sub(_without_path, text))
    for key in {where.lower(), where.lower().partition("://")[2].partition("/")[2]}:
        searched = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "", searched) if key else searched
    for meaning in _MEANINGS:
        if re.search(meaning.pattern, searched):
            return kind(f"{where}: cannot be {doing}: {meaning.reason}", meaning.hint)
    return kind(f"{where}: cannot be {doing}: {name}", _LATER)


def _without_path(match: re.Match[str]) -> str:
    services = ("169.254.169.254", "169.254.170.2", "metadata.google")
    return next((service for service in services if service in match[0]), "")


def is_passing(error: EngineError) -> bool:
    """Whether what failed may succeed at once: a connection that broke, or took too long."""
    return error.message.endswith((BROKE, LATE))
