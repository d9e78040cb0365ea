"""Which block of the key/value cache belongs to whom. Imports no torch: the tensors are in `attention.py`.

Block 0 is never lent: it pads the block tables and stays all zeros. Every other block is either lent (`_users > 0`) or
in `_free`, which is ordered: the front is taken first. A full block is registered under a digest of all tokens up to
its end, so that a later prompt with the same beginning takes it instead of computing it again; it stays registered in
`_free` until somebody needs the room.

Half-open ranges: a sequence's `block_ids[i]` holds its tokens `[i * block_size, (i + 1) * block_size)`, of which
`[0, num_computed)` are written. Blocks of other users are only shared when full, so nobody writes a shared block.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

from honed.models.engine.sequence import Sequence

PADDING_BLOCK = 0


class KVCache:
    def __init__(self, num_blocks: int, block_size: int) -> None:
        """`num_blocks` counts the padding block; there must be at least one more."""
        assert num_blocks >= 2
        assert block_size >= 1
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._users = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._digests: dict[Sequence, list[bytes]] = {}  # of a sequence's full, computed blocks, in order

    @property
    def capacity(self) -> int:
        """Tokens that fit when one sequence has everything."""
        return (self.num_blocks - 1) * self.block_size

    @property
    def usage(self) -> float:
        """Share of the blocks that are lent, 0 to 1."""
        return 1.0 - len(self._free) / (self.num_blocks - 1)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def admit(self, sequence: Sequence, *, spare: int) -> bool:
        """Lends the blocks for all of a sequence's tokens, shared ones where its beginning is known.

        All or nothing. Refuses when fewer than `spare` blocks would stay free. Sets `num_computed` to the number of
        tokens found; at least one token is left to compute, because its logits are wanted.
        """
        assert not sequence.block_ids
        shared, digests = self._find_prefix(sequence.token_ids)
        wanted = self.blocks_for(sequence.num_tokens) - len(shared)
        idle_shared = sum(self._users[block] == 0 for block in shared)
        if wanted + idle_shared + spare > len(self._free):
            return False
        for block in shared:
            self._free.pop(block, None)
            self._users[block] += 1
        sequence.block_ids = shared + [self._take() for _ in range(wanted)]
        sequence.num_computed = len(shared) * self.block_size
        self._digests[sequence] = digests
        return True

    def extend(self, sequence: Sequence) -> bool:
        """Lends what is missing for a sequence's newest tokens. False, and nothing lent, when there is not enough."""
        wanted = self.blocks_for(sequence.num_tokens) - len(sequence.block_ids)
        if wanted > len(self._free):
            return False
        sequence.block_ids += [self._take() for _ in range(wanted)]
        return True

    def register(self, sequence: Sequence) -> None:
        """Makes the full blocks that were computed since the last call findable for later prompts."""
        digests = self._digests[sequence]
        for index in range(len(digests), sequence.num_computed // self.block_size):
            tokens = sequence.token_ids[index * self.block_size : (index + 1) * self.block_size]
            digests.append(_digest(digests[-1] if digests else b"", tokens))
            block = sequence.block_ids[index]
            if digests[-1] not in self._block_of:
                self._block_of[digests[-1]] = block
                self._digest_of[block] = digests[-1]

    def release(self, sequence: Sequence) -> None:
        """Takes everything back. The end of a sequence is given away before its beginning, which others may share."""
        for block in reversed(sequence.block_ids):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free[block] = None
        sequence.block_ids = []
        sequence.num_computed = 0
        self._digests.pop(sequence, None)

    def forget(self, blocks: Iterable[int]) -> None:
        """Nobody will find these blocks any more: what is in them is not to be trusted."""
        for block in blocks:
            digest = self._digest_of.pop(block, None)
            if digest is not None:
                del self._block_of[digest]

    def is_free(self, block: int) -> bool:
        return block in self._free

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Raises AssertionError unless the books balance against the living sequences."""
        users = [0] * self.num_blocks
        for sequence in sequences:
            assert len(set(sequence.block_ids)) == len(sequence.block_ids), "a block twice in one sequence"
            assert len(sequence.block_ids) * self.block_size >= sequence.num_computed, "tokens without a block"
            for block in sequence.block_ids:
                users[block] += 1
        assert users == self._users, "the number of users of a block is off: one leaked or was freed twice"
        assert users[PADDING_BLOCK] == 0, "the padding block was lent"
        free = {block for block in range(1, self.num_blocks) if users[block] == 0}
        assert free == set(self._free), "a block is neither lent nor free, or both"
        assert {d: b for b, d in self._digest_of.items()} == self._block_of, "the two prefix maps disagree"

    def _find_prefix(self, token_ids: list[int]) -> tuple[list[int], list[bytes]]:
        blocks: list[int] = []
        digests: list[bytes] = []
        for end in range(self.block_size, len(token_ids), self.block_size):
            digest = _digest(digests[-1] if digests else b"", token_ids[end - self.block_size : end])
            block = self._block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
            digests.append(digest)
        return blocks, digests

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        self.forget([block])
        self._users[block] = 1
        return block


def _digest(previous: bytes, token_ids: list[int]) -> bytes:
    """Names a block by everything up to its end. 128 bits: two prompts never meet by accident."""
    return blake2b(previous + array("q", token_ids).tobytes(), digest_size=16).digest()
