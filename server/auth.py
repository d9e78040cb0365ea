"""API keys: who may use this server, and where it may listen when everybody may.

Owns the digests of the keys; a key itself is kept nowhere, and no error, log line or repr holds one. Does not
know what a key may do: all may do the same, and there are no rate limits. Invariants: every comparison looks at every
key, in constant time; a server without keys listens on loopback only.
"""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from honed.server.errors import InvalidApiKey

ANONYMOUS = "anonymous"
KEY_ID_CHARS = 12
_REDACTED_CHARS = 4


class KeyRing:
    """The keys that open this server; without any, it is open to all who reach it."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Raises ValueError for a key that no client could send."""
        self._digests: Final = tuple({_digest(_checked(key)): None for key in keys})

    def __repr__(self) -> str:
        return f"KeyRing({len(self._digests)} keys)"

    @property
    def is_open(self) -> bool:
        return not self._digests

    def verify(self, authorization: str | None) -> str:
        """The id of the key in an `Authorization` header. Raises `InvalidApiKey`; an open ring takes
        anything.
        """
        if self.is_open:
            return ANONYMOUS
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise InvalidApiKey(
                "You did not provide an API key. Send it in a header: 'Authorization: Bearer YOUR_KEY'."
            )
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise InvalidApiKey(f"Incorrect API key provided: {_redacted(key)}.")
        return digest.hex()[:KEY_ID_CHARS]


def load_keyring(keys: Iterable[str], keys_file: Path | None) -> KeyRing:
    """The keys that were given and those in the file. Raises ValueError, naming the file, where it cannot be
    used.
    """
    listed = list(keys)
    if keys_file is not None:
        listed += read_keys(keys_file)
    return KeyRing(listed)


def read_keys(path: Path) -> list[str]:
    """The keys in a file, one a line; blank lines and what follows a `#` do not count."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"cannot read the API keys in {path}: {exc}") from exc
    keys = [key for line in lines if (key := line.partition("#")[0].strip())]
    if not keys:
        # An empty ring would open the server to all.
        raise ValueError(f"{path} holds no API key: write one a line, or do not name the file")
    return keys


def short_hash(text: str) -> str:
    """A name for a secret or a person that can be logged: the same for the same text."""
    return _digest(text).hex()[:KEY_ID_CHARS]


def require_safe_binding(host: str, keyring: KeyRing) -> None:
    """Raises ValueError where a server without keys would listen beyond this machine."""
    if keyring.is_open and not is_loopback(host):
        raise ValueError(
            f"refusing to listen on {host!r} without an API key, since everybody who reaches it could use "
            "the server: set a key (--api-key, HONED_API_KEYS or HONED_API_KEYS_FILE), or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether all addresses of `host` (address or name) are this machine's own; unknown names are not."""
    name = host.strip().strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    if not name:
        return False
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(_is_loopback_address(str(address[4][0])) for address in found)


def _is_loopback_address(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def _checked(key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("an API key must be of printable ASCII characters without spaces")
    return key


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _redacted(key: str) -> str:
    """Enough to see which key it was, never enough to use it."""
    shown = key[:_REDACTED_CHARS] if len(key) >= 4 * _REDACTED_CHARS else ""
    return f"{shown if shown.isascii() and shown.isprintable() else ''}****"
