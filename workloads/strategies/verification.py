"""Generative verification: let a model argue about every solution, many times."""

from typing import ClassVar, Literal

from pydantic import Field

from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Caller
from ttcsim.workloads.strategies.sampling import draft
from ttcsim.workloads.strategy import Outcome, Program, Strategy


class GenerativeVerification(Strategy):
    """n solutions, then v verification texts for each; the best mean verdict wins (GenRM).

    A verification reads instructions (shared by all), the question and the solution, and writes
    `length_ratio` times as much as the solution has tokens. Verdicts are modelled: d'·correct plus
    noise that averages out over v.
    """

    name: ClassVar[str] = "generative_verification"
    accuracy_model: ClassVar[str | None] = "verifier"

    n: int = Field(8, ge=1, description="solutions")
    v: int = Field(4, ge=1, description="verifications of each solution")
    length_ratio: float = Field(
        1.0, gt=0, description="verification tokens per solution token (GenRM uses 1 or 2)"
    )
    head_tokens: int = Field(
        1500, ge=1, description="few-shot instructions, shared by all (assumption)"
    )
    on: Literal["generator", "scorer"] = Field("generator", description="who verifies")

    def samples(self) -> int:
        """All n."""
        return self.n

    def scored(self) -> bool:
        """Verdicts decide."""
        return True

    def deployments(self) -> tuple[str, ...]:
        """Generator, and the scorer if that verifies."""
        return ("generator",) if self.on == "generator" else ("generator", "scorer")

    def run(self, question: Asked, call: Caller) -> Program:
        """Solutions, verifications of all of them at once, the best by mean verdict."""
        solutions = draft(question, call, self.n)
        yield call.all(solutions)
        checks = []
        for solution in solutions:
            read = question.context.tokens + solution.tokens
            prompt = question.shared("verification", self.head_tokens).append(read)
            tokens = max(1, round(self.length_ratio * solution.tokens))
            checks.append([call.generate(prompt, tokens=tokens, on=self.on) for _ in range(self.v)])
        yield call.all([check for group in checks for check in group])
        best = max(
            range(self.n),
            key=lambda sample: question.noisy_score(sample, self.name, averaged=self.v),
        )
        chosen = question.sample(best)
        return Outcome(chosen.answer, chosen.correct, (solutions[best], *checks[best]))
