"""Does a request come from a page in somebody's browser that has no business here? Pure: headers in, a complaint out.

A page may send a simple POST to any address, this machine's own among them, and by a name of its own that it lets point
here (DNS rebinding) it may even read the answer. Browsers say where a request comes from in Origin, and by which name
it goes in Host; curl and the API's clients send no Origin.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from plait.server.errors import ForeignPageError

ALL = "*"


def check_page(headers: Mapping[bytes, bytes], names: Sequence[str] | None, origins: Sequence[str]) -> None:
    """Raises `ForeignPageError` for an Origin other than the server's own and `origins`, and, unless `names` is None,
    for a Host that is neither an address, nor localhost, nor one of `names`."""
    host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
    if names is not None and ALL not in names and host and not _is_ours(_name_of(host), names):
        raise ForeignPageError("the server was called by a name that it does not know; give it by --allowed-host")
    if origin and ALL not in origins and origin not in origins and origin.partition("://")[2] != host:
        raise ForeignPageError("a page of another origin sent this; allow it by --cors-origin")


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_ours(name: str, names: Sequence[str]) -> bool:
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
