"""What was redacted, kept sealed for the operator who asked for it (`HONED_ORIGINALS_KEY`).

Fernet (AES-128-CBC with HMAC-SHA256, of the library `cryptography`). The key is nowhere in the store: a dump of it
gives nothing away, and an operator who throws the key away has erased all originals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from honed.server.store.database import StoreError


@dataclass(frozen=True, slots=True)
class Original:
    """A completion as it was: its messages, and the texts of its choices by index."""

    messages: list[dict[str, str]]
    choices: dict[int, str]


class Sealer:
    def __init__(self, key: str) -> None:
        """Raises StoreError for what is not 32 bytes in URL-safe base64."""
        try:
            self._fernet = Fernet(key.encode())
        except ValueError:
            raise StoreError(
                "HONED_ORIGINALS_KEY is not a key: make one with "
                "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
            ) from None

    def seal(self, original: Original) -> bytes:
        choices = {str(index): text for index, text in original.choices.items()}
        content = {"messages": original.messages, "choices": choices}
        return self._fernet.encrypt(json.dumps(content, ensure_ascii=False).encode())

    def open(self, sealed: bytes) -> Original | None:
        """None where it was sealed with another key."""
        try:
            content: dict[str, Any] = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            return None
        return Original(content["messages"], {int(index): text for index, text in content["choices"].items()})
