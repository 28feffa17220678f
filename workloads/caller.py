"""The vocabulary a strategy speaks: calls, and waiting for them. Nothing about time or hardware.

Three callers exist: a simulated one (virtual time), a live one (a real server) and one for a
question by itself (sums); what they do alike is in `caller_base.py`. A strategy yields what `all`
and `first` return and is resumed when it has come true.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

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


class Caller(Protocol):
    """What a strategy can do."""

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
        ...

    def score(self, context: Context, *, reuse_prefix: bool = True, on: str = "scorer") -> Call:
        """Read a text (prefill only; the one output token is thrown away).

        Without `reuse_prefix` the scorer's prefix cache is bypassed.
        """
        ...

    def wait(self, seconds: float) -> Call:
        """Let time pass, for a tool. [s]"""
        ...

    def all(self, calls: Iterable[Call]) -> Any:
        """Wait until every call is finished; yields the calls."""
        ...

    def first(self, k: int, calls: Sequence[Call]) -> Any:
        """Wait until `k` of the calls are finished; yields those that are, in order of finish."""
        ...

    def cancel(self, calls: Iterable[Call]) -> None:
        """Stop calls that still run; their KV is freed at the end of the engine's step."""
        ...
