"""API keys: who may use this server and as what, and where it may listen when everybody may.

Owns the digests of the keys; a key itself is kept nowhere, and no error, log line or repr holds one. There are no rate
limits. Invariants: every comparison looks at every key, in constant time; a server without keys listens on loopback
only, and there everybody may do everything.
"""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, get_args
from urllib.parse import urlsplit

from honed.server.consent import LoggingMode
from honed.server.errors import Forbidden, ForeignPage, InvalidApiKey

ANONYMOUS = "anonymous"
KEY_ID_CHARS = 12
_REDACTED_CHARS = 4


class Role(IntEnum):
    """Each may do what the one before may, and more."""

    CLIENT = 1  # asks, and sees and judges what it asked
    LABELER = 2  # ranks answers for training
    ADMIN = 3  # sees and judges everything, and makes labeling tasks


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `logging` is the key's own rule, None where the server's holds."""

    key_id: str
    role: Role = Role.CLIENT
    logging: LoggingMode | None = None
    denies_training: bool = False

    def require(self, role: Role) -> None:
        """Raises Forbidden."""
        if self.role < role:
            raise Forbidden(role.name.lower())

    @property
    def scope(self) -> str | None:
        """The key whose completions the caller may see; None for all."""
        return None if self.role is Role.ADMIN else self.key_id


_EVERYBODY = Caller(ANONYMOUS, Role.ADMIN)


class KeyRing:
    """The keys that open this server; without any, it is open to all who reach it."""

    def __init__(self, entries: Iterable[str]) -> None:
        """An entry is a key and, after spaces, what differs from a plain one's: `role=client|labeler|admin`,
        `logging=all|opt_in|off`, `training=allow|deny`. Raises ValueError for an entry that is none."""
        self._callers: Final = dict(map(_parsed, entries))

    def __repr__(self) -> str:
        return f"KeyRing({len(self._callers)} keys)"

    @property
    def is_open(self) -> bool:
        return not self._callers

    def keeps(self, default: LoggingMode) -> bool:
        """Whether anything that anybody asks may be remembered."""
        modes = {caller.logging or default for caller in self._callers.values()} or {default}
        return modes != {"off"}

    def verify(self, authorization: str | None) -> Caller:
        """Who it is that sent this `Authorization` header. Raises `InvalidApiKey`; an open ring takes
        anything.
        """
        if self.is_open:
            return _EVERYBODY
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise InvalidApiKey(
                "You did not provide an API key. Send it in a header: 'Authorization: Bearer YOUR_KEY'."
            )
        digest = _digest(key)
        matches = [caller for known, caller in self._callers.items() if hmac.compare_digest(digest, known)]
        if not matches:
            raise InvalidApiKey(f"Incorrect API key provided: {_redacted(key)}.")
        return matches[0]


def load_keyring(keys: Iterable[str], keys_file: Path | None) -> KeyRing:
    """The keys that were given and those in the file. Raises ValueError, naming the file, where it cannot be
    used.
    """
    listed = list(keys)
    if keys_file is not None:
        listed += read_keys(keys_file)
    return KeyRing(listed)


def read_keys(path: Path) -> list[str]:
    """The entries of a file, one a line; blank lines and what follows a `#` do not count."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"cannot read the API keys in {path}: {exc}") from exc
    keys = [key for line in lines if (key := line.partition("#")[0].strip())]
    if not keys:
        # An empty ring would open the server to all.
        raise ValueError(f"{path} holds no API key: write one a line, or do not name the file")
    return keys


def require_own_page(keyring: KeyRing, host: str | None, origin: str | None) -> None:
    """Raises Forbidden where a web page of somebody else's asks a server without keys, through the browser of who runs
    it: by a name that was made to point here (DNS rebinding), or straight across origins."""
    if not keyring.is_open:
        return
    for url in (f"//{host}" if host else None, origin):
        name = urlsplit(url).hostname if url else None
        if url and (name is None or not _names_loopback(name)):
            raise ForeignPage


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
    if not name:
        return False
    if _names_loopback(name):
        return True
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(_is_loopback_address(str(address[4][0])) for address in found)


def _names_loopback(name: str) -> bool:
    """By the name alone: what it resolves to is up to whoever owns it."""
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return _is_loopback_address(name)
    except ValueError:
        return False


def _is_loopback_address(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def _parsed(entry: str) -> tuple[bytes, Caller]:
    key, *options = entry.split(" ")
    digest = _digest(_checked(key))
    given = dict(option.partition("=")[::2] for option in options if option)
    role, logging, training = given.pop("role", "client"), given.pop("logging", None), given.pop("training", "allow")
    if given or role.upper() not in Role.__members__ or training not in ("allow", "deny"):
        raise ValueError(f"after an API key may stand role=, logging= and training=, not {' '.join(options)!r}")
    mode = next((mode for mode in get_args(LoggingMode) if mode == logging), None)
    if mode is None and logging is not None:
        raise ValueError(f"an API key's logging is all, opt_in or off, not {logging!r}")
    return digest, Caller(digest.hex()[:KEY_ID_CHARS], Role[role.upper()], mode, training == "deny")


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
