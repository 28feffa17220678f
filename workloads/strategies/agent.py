"""An agent that thinks, calls a tool, waits, reads the result, and thinks on."""

import math
from typing import ClassVar, Literal

from pydantic import Field

from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Caller
from ttcsim.workloads.strategy import Outcome, Program, Strategy


class AgentLoop(Strategy):
    """`turns` turns; the traced sample is spread over them, a tool call stands between two.

    While the tool works the engine is free to evict the agent's KV blocks. With kv=keep the next
    turn finds what is left of them in the prefix cache; with kv=drop it recomputes everything.
    What tools do for the answer is not in any trace, so no accuracy is stated.
    """

    name: ClassVar[str] = "agent_loop"

    turns: int = Field(8, ge=1, description="model calls")
    tool_s: float = Field(2.0, ge=0, description="mean tool time, exponential [s] (assumption)")
    tool_tokens: int = Field(200, ge=1, description="tokens a tool returns (assumption)")
    kv: Literal["keep", "drop"] = Field("keep", description="whether a turn may reuse KV")

    def run(self, question: Asked, call: Caller) -> Program:
        """Think, act, read; the last turn answers."""
        total = question.sample(0).output_tokens
        context, used = question.context, []
        for turn in range(self.turns):
            tokens = max(1, total * (turn + 1) // self.turns - total * turn // self.turns)
            if turn:
                wait = -self.tool_s * math.log(question.uniform("tool", turn))
                yield call.all([call.wait(wait)])
                context = context.append(self.tool_tokens)
                if self.kv == "drop":
                    context = context.forgotten()
            used.append(call.generate(context, tokens=tokens, sample=0))
            yield call.all(used[-1:])
            context = used[-1].context
        return Outcome(None, None, tuple(used))
