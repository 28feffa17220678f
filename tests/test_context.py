"""Texts share KV exactly as far as they share segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttcsim.workloads.context import Context, ContextSpace

SIZE = 16


def common(a: Context, b: Context, size: int = SIZE) -> int:
    """Leading blocks that two texts have in common."""
    count = 0
    for mine, other in zip(a.block_keys(size), b.block_keys(size), strict=False):
        if mine != other:
            break
        count += 1
    return count


def test_append_counts_tokens_and_keeps_the_parent() -> None:
    root = Context.root(40)
    child = root.append(25)
    assert child.tokens == 65
    assert child.parent is root
    assert root.tokens == 40


def test_nothing_appended_is_the_same_text() -> None:
    root = Context.root(40)
    assert root.append(0) is root


def test_only_full_blocks_have_keys() -> None:
    root = Context.root(40)
    assert len(root.block_keys(SIZE)) == 2
    assert len(root.append(8).block_keys(SIZE)) == 3
    assert len(root.append(8).block_keys(7)) == 6


def test_siblings_share_the_full_blocks_of_their_parent_and_no_more() -> None:
    root = Context.root(40)
    left, right = root.append(60), root.append(60)
    assert common(left, right) == 2
    assert not set(left.block_keys(SIZE)[2:]) & set(right.block_keys(SIZE)[2:])


def test_texts_of_their_own_share_nothing() -> None:
    a, b = Context.root(64), Context.root(64)
    assert not set(a.block_keys(SIZE)) & set(b.block_keys(SIZE))


def test_rollback_keeps_the_keys_of_the_kept_blocks() -> None:
    text = Context.root(40).append(60).append(50)
    for tokens in (0, 1, 39, 40, 41, 99, 100, 101, 149, 150):
        back = text.rollback(tokens)
        assert back.tokens == tokens
        assert back.block_keys(SIZE) == text.block_keys(SIZE)[: tokens // SIZE]


def test_rollback_to_the_whole_text_is_that_text() -> None:
    text = Context.root(40).append(60)
    assert text.rollback(100) is text
    assert text.rollback(40) is text.parent


def test_what_follows_a_rollback_is_new() -> None:
    text = Context.root(32).append(64)
    again = text.rollback(64).append(32)
    assert again.tokens == text.tokens
    assert common(text, again) == 4
    assert not set(text.block_keys(SIZE)[4:]) & set(again.block_keys(SIZE)[4:])


@pytest.mark.parametrize("tokens", [-1, 101])
def test_rollback_outside_the_text_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{tokens} of 100"):
        Context.root(100).rollback(tokens)


def test_forgotten_is_as_long_and_shares_nothing() -> None:
    text = Context.root(40).append(60)
    bare = text.forgotten()
    assert bare.tokens == 100
    assert common(text, bare) == 0
    assert not set(text.block_keys(SIZE)) & set(bare.block_keys(SIZE))


def test_concat_keeps_the_identity_of_the_first_only() -> None:
    head, tail = Context.root(48), Context.root(32)
    joined = Context.concat([head, tail])
    assert joined.tokens == 80
    assert common(head, joined) == 3
    assert not set(tail.block_keys(SIZE)) & set(joined.block_keys(SIZE))


def test_shared_texts_are_found_again_by_name_length_and_place() -> None:
    space = ContextSpace()
    assert space.root("head", 64) is space.root("head", 64)
    assert common(space.root("head", 64), space.root("other", 64)) == 0
    assert common(space.root("head", 64), space.root("head", 48)) == 0
    assert common(space.root("head", 64), ContextSpace().root("head", 64)) == 0


def test_prompts_share_named_prefixes_as_far_as_they_agree() -> None:
    space = ContextSpace()
    one = space.prompt(200, [("system", 64), ("tools", 64)])
    two = space.prompt(300, [("system", 64), ("tools", 64)])
    three = space.prompt(300, [("system", 64), ("other", 64)])
    swapped = space.prompt(300, [("tools", 64), ("system", 64)])
    assert one.tokens == 200
    assert common(one, two) == 8
    assert common(one, three) == 4
    assert common(one, swapped) == 0


def test_a_prompt_that_is_all_prefix_is_shared_whole() -> None:
    space = ContextSpace()
    assert space.prompt(64, [("system", 64)]) is space.prompt(64, [("system", 64)])


def test_prompts_without_prefix_share_nothing() -> None:
    space = ContextSpace()
    assert common(space.prompt(64), space.prompt(64)) == 0


@given(st.data(), st.integers(1, 20))
def test_keys_agree_exactly_where_tokens_do(data: st.DataObject, size: int) -> None:
    """Against texts spelled out token by token: equal keys if and only if equal tokens so far."""
    texts: list[tuple[Context, list[int]]] = [(Context.root(5), [0] * 5)]
    fresh = 1
    for _ in range(data.draw(st.integers(1, 12))):
        text, tokens = data.draw(st.sampled_from(texts))
        kind = data.draw(st.sampled_from(["append", "append", "rollback", "forget"]))
        if kind == "append":
            more = data.draw(st.integers(0, 30))
            texts.append((text.append(more), tokens + [fresh] * more))
        elif kind == "rollback":
            kept = data.draw(st.integers(0, text.tokens))
            texts.append((text.rollback(kept), tokens[:kept]))
        else:
            texts.append((text.forgotten(), [fresh] * len(tokens)))
        fresh += 1
    meaning: dict[int, tuple[int, ...]] = {}
    known: dict[tuple[int, ...], int] = {}
    for text, tokens in texts:
        assert text.tokens == len(tokens)
        for block, key in enumerate(text.block_keys(size)):
            until = tuple(tokens[: (block + 1) * size])
            assert meaning.setdefault(key, until) == until
            assert known.setdefault(until, key) == key
