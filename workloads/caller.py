"""The vocabulary a strategy speaks: calls, and waiting for them. Nothing about time or hardware.

Three callers exist: a simulated one (virtual time), a live one (a real server) and one for a
question by itself (sums). A strategy yields what `all` and `first` return and is resumed when it
has come true.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

from mypy_extensions import mypyc_attr

from ttcsim.errors import InputError
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.context import Context

CallKind: TypeAlias = Literal["generate", "score", "wait"]
CallState: TypeAlias = Literal["running", "finished", "cancelled", "failed"]


class Call:
    """One `generate`, `score` or `wait`.

    Attributes:
        kind: What it does.
        on: Name of the deployment that serves it ("" for a wait).
        prompt: The text it is about; None for a wait.
        sample: Number of the traced sample it replays, if it does.
        tokens: Output tokens it will have when it is finished. [tokens]
        seconds: How long a wait takes. [s]
        reuse_prefix: Whether the prefix cache of the deployment is used.
        state: Whether it runs, is finished or was cancelled; a live one can also have failed.
        output: The text after it. Nobody may build on it before it is finished: `context` is what
            strategies use.
        owner: Whatever the caller keeps about it.
    """

    __slots__ = (
        "kind", "on", "output", "owner", "prompt", "reuse_prefix", "sample", "seconds", "state",
        "tokens",
    )  # fmt: skip

    def __init__(
        self,
        kind: CallKind,
        on: str = "",
        prompt: Context | None = None,
        sample: int | None = None,
        tokens: int = 0,
        seconds: float = 0.0,
        reuse_prefix: bool = True,
        output: Context | None = None,
    ) -> None:
        self.kind = kind
        self.on = on
        self.prompt = prompt
        self.sample = sample
        self.tokens = tokens
        self.seconds = seconds
        self.reuse_prefix = reuse_prefix
        self.state: CallState = "running"
        self.output = output
        self.owner: Any = None

    def __repr__(self) -> str:
        return f"<{self.kind} of {self.tokens} tokens: {self.state}>"

    @property
    def context(self) -> Context:
        """The text of the call: prompt and output, the prompt alone until it is finished.

        Raises:
            ValueError: For a wait, which has no text.
        """
        context = self.output if self.state == "finished" else self.prompt
        if context is None:
            raise ValueError("a wait has no context")
        return context


@mypyc_attr(allow_interpreted_subclasses=True)
class Caller:
    """What a strategy can do. Subclasses say how a call is sent, stopped and waited for.

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
        """Continue a text: by the whole of a traced sample, or by `tokens` tokens.

        With both, `tokens` is the length and `sample` only says whose text it is.
        """
        if tokens is None:
            if sample is None:
                raise InputError("generate() needs a sample or a number of tokens")
            tokens = self.asked.sample(sample).output_tokens
        call = Call("generate", on, context, sample, tokens, output=context.append(tokens))
        self._send(call)
        return call

    def score(self, context: Context, *, reuse_prefix: bool = True, on: str = "scorer") -> Call:
        """Read a text (prefill only; the one output token is thrown away).

        Without `reuse_prefix` the scorer's prefix cache is bypassed.
        """
        call = Call("score", on, context, tokens=1, reuse_prefix=reuse_prefix, output=context)
        self._send(call)
        return call

    def wait(self, seconds: float) -> Call:
        """Let time pass, for a tool. [s]"""
        raise NotImplementedError

    def all(self, calls: Iterable[Call]) -> Any:
        """Wait until every call is finished; yields the calls."""
        listed = list(calls)
        return self._wait_for(listed, len(listed))

    def first(self, k: int, calls: Sequence[Call]) -> Any:
        """Wait until `k` of the calls are finished; yields those that are, in order of finish."""
        if k > len(calls):
            raise InputError(f"first({k}, ...) of {len(calls)} calls can never come true")
        return self._wait_for(list(calls), k)

    def cancel(self, calls: Iterable[Call]) -> None:
        """Stop calls that still run; their KV is freed at the end of the engine's step."""
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
