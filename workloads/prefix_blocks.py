"""Prefix blocks of request traces: hash ids of fixed-size prompt blocks to prefix segments."""

from collections.abc import Sequence

from ttcsim.workloads.question import PrefixSegment


class PrefixBlocks:
    """Turns the hash ids of a prompt into segments; equal prefixes get the very same segments.

    A block is identified by its hash id, its length and the blocks before it. Published traces hash
    a block together with all before it; where a file does not, and an id returns behind another
    block, the second one gets a name of its own (`7`, then `7#1`).
    """

    def __init__(self, block_tokens: int) -> None:
        if block_tokens < 1:
            raise ValueError(f"block_tokens must be at least 1, found {block_tokens}")
        self.block_tokens = block_tokens
        self._known: dict[tuple[str, int, int], PrefixSegment] = {}
        self._uses: dict[int, int] = {}

    def segments(self, hash_ids: Sequence[int], prompt_tokens: int) -> tuple[PrefixSegment, ...]:
        """Return one segment a hash id; the last is cut to what the prompt [tokens] still holds.

        Raises ValueError if the prompt is too short to reach into the last block.

        >>> [segment.tokens for segment in PrefixBlocks(512).segments([3, 9], 700)]
        [512, 188]
        """
        whole = len(hash_ids) - 1
        last_tokens = min(self.block_tokens, prompt_tokens - whole * self.block_tokens)
        if last_tokens < 1:
            raise ValueError(
                f"{len(hash_ids)} blocks of {self.block_tokens} tokens are more than a prompt of"
                f" {prompt_tokens} tokens needs"
            )
        chain: list[PrefixSegment] = []
        parent = ""
        for index, hash_id in enumerate(hash_ids):
            tokens = self.block_tokens if index < whole else last_tokens
            segment = self._segment(parent, hash_id, tokens)
            chain.append(segment)
            parent = segment.id
        return tuple(chain)

    def _segment(self, parent: str, hash_id: int, tokens: int) -> PrefixSegment:
        key = (parent, hash_id, tokens)
        segment = self._known.get(key)
        if segment is None:
            earlier = self._uses.get(hash_id, 0)
            self._uses[hash_id] = earlier + 1
            name = f"{hash_id}#{earlier}" if earlier else str(hash_id)
            segment = self._known[key] = PrefixSegment(name, tokens)
        return segment
