"""Token ids of contexts: equal exactly as far as segments are shared."""

from hypothesis import given
from hypothesis import strategies as st

from ttcsim.analysis.measure.texts import FIRST_TOKEN, Texts
from ttcsim.workloads.context import Context


def test_children_continue_what_was_really_written() -> None:
    texts = Texts(1000, 0)
    prompt = Context.root(5)
    output = prompt.append(3)
    texts.put(output, [7, 8, 9])
    child = output.append(2)
    assert texts.tokens(output) == [*texts.tokens(prompt), 7, 8, 9]
    assert texts.tokens(child)[:8] == texts.tokens(output)
    assert len(texts.tokens(child)) == 10


def test_siblings_share_the_prompt_and_nothing_else() -> None:
    texts = Texts(100_000, 0)
    prompt = Context.root(6)
    one, other = (texts.tokens(prompt.append(20)) for _ in range(2))
    assert one[:6] == other[:6]
    assert one[6:] != other[6:]


def test_a_rolled_back_text_is_the_beginning_of_the_text() -> None:
    texts = Texts(1000, 0)
    whole = Context.root(4).append(6).append(5)
    tokens = texts.tokens(whole)
    for length in range(1, 16):
        assert texts.tokens(whole.rollback(length)) == tokens[:length]


def test_a_forgotten_text_is_another_text() -> None:
    texts = Texts(100_000, 0)
    context = Context.root(30)
    assert texts.tokens(context.forgotten()) != texts.tokens(context)


def test_runs_share_no_texts_and_the_same_run_gets_the_same() -> None:
    context = Context.root(30)
    first, again, other = (Texts(100_000, 3, "a", run).tokens(context) for run in (1, 1, 2))
    assert first == again
    assert first != other


@given(st.integers(200, 40_000), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_lengths_and_range(vocabulary: int, lengths: list[int]) -> None:
    texts = Texts(vocabulary, 0)
    context = Context.root(1)
    for length in lengths:
        context = context.append(length)
    tokens = texts.tokens(context)
    assert len(tokens) == 1 + sum(lengths)
    assert all(FIRST_TOKEN <= token < vocabulary for token in tokens)
