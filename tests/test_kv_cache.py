"""Block pool: who is handed out when, what is found, in which order blocks come back."""

import pytest

from ttcsim.simulator.kv_cache import Block, BlockPool


def ids(blocks: list[Block]) -> list[int]:
    return [block.id for block in blocks]


def taken(pool: BlockPool, count: int) -> list[int]:
    return ids(pool.take(count))


def found(pool: BlockPool, keys: str, limit: int) -> list[int]:
    return ids(pool.lookup(keys, limit))


def keyed(pool: BlockPool, keys: str) -> list[Block]:
    """Take a block for each key and register it."""
    blocks = pool.take(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        pool.register(block, key)
    return blocks


def test_block_0_is_never_handed_out() -> None:
    pool = BlockPool(5)
    assert pool.usable_blocks == 4
    assert taken(pool, 4) == [1, 2, 3, 4]
    assert pool.used_blocks == 4
    assert not pool.free


def test_a_pool_needs_a_block_beside_the_null_block() -> None:
    with pytest.raises(ValueError, match=">= 2"):
        BlockPool(1)


def test_unhashed_blocks_come_back_to_the_front_tail_first() -> None:
    pool = BlockPool(7)
    pool.release(pool.take(3))
    # 1, 2, 3 are given back as 3, 2, 1 and stay in that order, in front of the others.
    assert list(pool.free) == [3, 2, 1, 4, 5, 6]
    assert taken(pool, 2) == [3, 2]


def test_hashed_blocks_come_back_to_the_end_tail_first() -> None:
    pool = BlockPool(7)
    pool.release(keyed(pool, "abc"))
    assert list(pool.free) == [4, 5, 6, 3, 2, 1]


def test_a_half_hashed_request_is_split() -> None:
    pool = BlockPool(7)
    blocks = keyed(pool, "ab") + pool.take(2)
    pool.release(blocks)
    assert list(pool.free) == [4, 3, 5, 6, 2, 1]


def test_a_block_keeps_its_key_until_it_is_handed_out_again() -> None:
    pool = BlockPool(4)
    pool.release(keyed(pool, "ab"))
    assert list(pool.free) == [3, 2, 1]
    assert found(pool, "ab", 2) == [1, 2]
    assert taken(pool, 2) == [3, 2]  # the tail block is evicted before the head
    assert found(pool, "ab", 2) == [1]


def test_lookup_ends_at_the_first_miss_and_at_the_limit() -> None:
    pool = BlockPool(9)
    keyed(pool, "abd")
    assert found(pool, "abcd", 4) == [1, 2]
    assert found(pool, "abd", 1) == [1]
    assert found(pool, "ab", 9) == [1, 2]
    assert found(pool, "x", 1) == []


def test_of_equal_blocks_the_oldest_registered_is_found() -> None:
    pool = BlockPool(9)
    blocks = keyed(pool, "aaa")
    assert found(pool, "a", 1) == ids(blocks[:1])
    pool.release(blocks[:1])
    taken(pool, 6)  # 4 .. 8, then 1: the oldest is gone
    assert found(pool, "a", 1) == ids(blocks[1:2])
    pool.release(blocks[1:])
    assert taken(pool, 1) == ids(blocks[2:])
    assert found(pool, "a", 1) == ids(blocks[1:2])
    assert taken(pool, 1) == ids(blocks[1:2])
    assert found(pool, "a", 1) == []


def test_adopting_an_idle_block_uses_up_a_free_one() -> None:
    pool = BlockPool(5)
    blocks = keyed(pool, "ab")
    pool.release(blocks[:1])
    assert pool.idle(blocks) == 1
    assert len(pool.free) == 3
    pool.adopt(blocks)
    assert len(pool.free) == 2
    assert [block.references for block in blocks] == [1, 2]
    assert pool.idle(blocks) == 0


def test_a_shared_block_is_free_when_the_last_holder_lets_go() -> None:
    pool = BlockPool(3)
    blocks = keyed(pool, "a")
    pool.adopt(blocks)
    pool.release(blocks)
    assert list(pool.free) == [2]
    pool.release(blocks)
    assert list(pool.free) == [2, 1]


def test_registering_twice_is_harmless() -> None:
    pool = BlockPool(3)
    blocks = keyed(pool, "a")
    pool.register(blocks[0], "a")
    pool.release(blocks)
    taken(pool, 2)
    assert found(pool, "a", 1) == []


def test_kept_blocks_stand_in_the_queue_where_they_were_left() -> None:
    pool = BlockPool(10)
    first, kept = keyed(pool, "ab"), pool.take(3)
    pool.release(first)
    pool.keep(kept)
    pool.release(keyed(pool, "c"))
    assert list(pool.free) == [7, 8, 9, 2, 1, 5, 4, 3, 6]
    assert pool.used_blocks == 0


def test_kept_blocks_are_evicted_from_the_tail_and_the_head_comes_back() -> None:
    pool = BlockPool(6)
    kept = pool.keep(pool.take(4))
    assert taken(pool, 3) == [5, 4, 3]
    assert ids(pool.restore(kept)) == [1, 2]
    assert list(pool.free) == []
    assert pool.free_blocks == 0


def test_kept_blocks_that_are_all_evicted_are_gone() -> None:
    pool = BlockPool(6)
    kept = pool.keep(pool.take(3))
    pool.release(keyed(pool, "a"))
    assert taken(pool, 5) == [5, 3, 2, 1, 4]
    assert kept.blocks == []
    assert pool.lookup("a", 1) == []
