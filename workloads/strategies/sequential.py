"""Sequential scaling: think longer on one answer."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Caller
from ttcsim.workloads.question import Sample
from ttcsim.workloads.selection import expected_single
from ttcsim.workloads.strategy import Outcome, Program, Strategy


class BudgetForcing(Strategy):
    """Cap the thinking, or make it go on: s1's "Wait".

    Thinking longer than `max_thinking_tokens` is cut. After each natural stop, `waits` times, the
    text is sent again with "Wait" appended and thinking goes on for `extra_tokens`. Then the
    answer is written. How the answer changes is not in any trace, so no accuracy is stated.
    """

    name: ClassVar[str] = "budget_forcing"

    max_thinking_tokens: int = Field(8000, ge=1, description="cap on all thinking (assumption)")
    waits: int = Field(1, ge=0, description="times that thinking is made to go on")
    wait_prompt_tokens: int = Field(2, ge=1, description="tokens of 'Wait' (assumption)")
    extra_tokens: int = Field(500, ge=1, description="thinking after each 'Wait' (assumption)")
    answer_prompt_tokens: int = Field(
        8, ge=1, description="tokens that end the thinking (assumption)"
    )
    answer_tokens: int = Field(100, ge=1, description="tokens of the final answer (assumption)")

    def run(self, question: Asked, call: Caller) -> Program:
        """Think, wait and think on, answer."""
        left = self.max_thinking_tokens
        thinking = min(question.sample(0).output_tokens, left)
        context, used = question.context, []
        for round_ in range(1 + self.waits):
            if thinking <= 0:
                break
            used.append(call.generate(context, tokens=thinking, sample=0))
            yield call.all(used[-1:])
            left -= thinking
            context = used[-1].context
            if round_ < self.waits and left > 0:
                context = context.append(self.wait_prompt_tokens)
            thinking = min(self.extra_tokens, left)
        context = context.append(self.answer_prompt_tokens)
        used.append(call.generate(context, tokens=self.answer_tokens))
        yield call.all(used[-1:])
        return Outcome(None, None, tuple(used))


class SelfRefine(Strategy):
    """Draft, then `rounds` times: criticise and write again, the context growing all the while.

    Each revision is as long and as right as another traced sample.
    """

    name: ClassVar[str] = "self_refine"
    accuracy_model: ClassVar[str | None] = "donor"

    rounds: int = Field(2, ge=1, description="revisions")
    critique_prompt_tokens: int = Field(
        60, ge=1, description="instruction to criticise (assumption)"
    )
    critique_tokens: int = Field(300, ge=1, description="tokens of a critique (assumption)")
    revise_prompt_tokens: int = Field(
        30, ge=1, description="instruction to write again (assumption)"
    )

    def samples(self) -> int:
        """The draft and its revisions."""
        return 1 + self.rounds

    def run(self, question: Asked, call: Caller) -> Program:
        """Draft, critique, revision, and so on; the last revision answers."""
        used = [call.generate(question.context, sample=0)]
        yield call.all(used)
        for revision in range(1, 1 + self.rounds):
            asked = used[-1].context.append(self.critique_prompt_tokens)
            critique = call.generate(asked, tokens=self.critique_tokens)
            yield call.all([critique])
            again = critique.context.append(self.revise_prompt_tokens)
            used += [critique, call.generate(again, sample=revision)]
            yield call.all(used[-1:])
        last = question.sample(self.rounds)
        return Outcome(last.answer, last.correct, tuple(used))

    def expected_accuracy(self, samples: Sequence[Sample], scores: Sequence[float]) -> float | None:
        """The last revision is as right as any sample."""
        return expected_single(samples)
