"""What all callers do alike: turn what a strategy says into calls."""

from collections.abc import Iterable, Sequence
from typing import Any

from mypy_extensions import mypyc_attr

from ttcsim.errors import InputError
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call
from ttcsim.workloads.context import Context


@mypyc_attr(allow_interpreted_subclasses=True)
class CallerBase:
    """The vocabulary of `ttcsim.workloads.caller.Caller`, but for waits.

    Args:
        asked: The question.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def generate(
        self,
        context: Context,
        *,
        sample: int | None = None,
        tokens: int | None = None,
        on: str = "generator",
    ) -> Call:
        """Continue a text."""
        if tokens is None:
            if sample is None:
                raise InputError("generate() needs a sample or a number of tokens")
            tokens = self.asked.sample(sample).output_tokens
        call = Call("generate", on, context, sample, tokens, output=context.append(tokens))
        self._send(call)
        return call

    def score(self, context: Context, *, reuse_prefix: bool = True, on: str = "scorer") -> Call:
        """Read a text; the one output token is thrown away."""
        call = Call("score", on, context, tokens=1, reuse_prefix=reuse_prefix, output=context)
        self._send(call)
        return call

    def all(self, calls: Iterable[Call]) -> Any:
        """Wait for every call."""
        listed = list(calls)
        return self._wait_for(listed, len(listed))

    def first(self, k: int, calls: Sequence[Call]) -> Any:
        """Wait for `k` of the calls."""
        if k > len(calls):
            raise InputError(f"first({k}, ...) of {len(calls)} calls can never come true")
        return self._wait_for(list(calls), k)

    def cancel(self, calls: Iterable[Call]) -> None:
        """Stop calls that still run."""
        for call in calls:
            if call.state == "running":
                call.state = "cancelled"
                self._stop(call)

    def _send(self, call: Call) -> None:
        """Let a call go on its way."""
        raise NotImplementedError

    def _wait_for(self, calls: list[Call], needed: int) -> Any:
        """What a strategy yields to wait until so many of the calls are finished."""
        raise NotImplementedError

    def _stop(self, call: Call) -> None:
        """Stop a call that has just been cancelled."""
        raise NotImplementedError
