"""The vocabulary a strategy speaks: calls, and waiting for them. Nothing about time or hardware.

Two callers exist: a simulated one (virtual time) and a live one (a real server). A strategy yields
what `all` and `first` return and is resumed when it has come true.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from ttcsim.workloads.context import Context

CallKind: TypeAlias = Literal["generate", "score", "wait"]
CallState: TypeAlias = Literal["running", "finished", "cancelled"]


@dataclass(eq=False, slots=True)
class Call:
    """One `generate`, `score` or `wait`.

    Attributes:
        kind: What it does.
        on: Name of the deployment that serves it ("" for a wait).
        prompt: The text it is about; None for a wait.
        sample: Number of the traced sample it replays, if it does.
        tokens: Output tokens it will have when it is finished. [tokens]
        state: Whether it runs, is finished or was cancelled.
        context: Prompt and output; its prompt until it is finished.
    """

    kind: CallKind
    on: str = ""
    prompt: Context | None = None
    sample: int | None = None
    tokens: int = 0
    seconds: float = 0.0
    reuse_prefix: bool = True
    state: CallState = "running"
    output: Context | None = None
    owner: Any = field(default=None, repr=False)

    @property
    def context(self) -> Context:
        """The text after the call: prompt and output.

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
