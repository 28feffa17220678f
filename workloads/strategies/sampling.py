"""Parallel sampling: ask n times at once and choose among the answers."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call, Caller
from ttcsim.workloads.question import Answer, Sample
from ttcsim.workloads.selection import (
    decided,
    expected_best_by_score,
    expected_best_of_n,
    expected_first_finish,
    expected_majority,
    expected_single,
)
from ttcsim.workloads.strategy import Outcome, Program, Strategy


def draft(question: Asked, call: Caller, n: int) -> list[Call]:
    """Launch samples 0 to n-1 on the question's prompt."""
    return [call.generate(question.context, sample=sample) for sample in range(n)]


def voted(question: Asked, calls: Sequence[Call]) -> Outcome:
    """The plurality answer of finished drafts; those who voted for it are what it rests on."""
    by_sample = {call.sample: call for call in calls if call.sample is not None}
    answer, correct, voters = question.vote(list(by_sample))
    return Outcome(answer, correct, tuple(by_sample[sample] for sample in voters))


class Single(Strategy):
    """Ask once."""

    name: ClassVar[str] = "single"
    selects: ClassVar[bool] = True

    def run(self, question: Asked, call: Caller) -> Program:
        """One sample, its answer."""
        sent = call.generate(question.context, sample=0)
        yield call.all([sent])
        sample = question.sample(0)
        return Outcome(sample.answer, sample.correct, (sent,))

    def expected_accuracy(self, samples: Sequence[Sample], scores: Sequence[float]) -> float | None:
        """Share of right samples."""
        return expected_single(samples)


class BestOfN(Strategy):
    """Ask n times and keep the best by a verifier.

    The oracle knows the right answer and costs nothing (coverage, pass@n); the scorer is a reward
    model that reads every draft, once all are written or each as it is finished.
    """

    name: ClassVar[str] = "best_of_n"
    selects: ClassVar[bool] = True

    n: int = Field(16, ge=1, description="samples")
    verifier: Literal["scorer", "oracle"] = Field("scorer", description="who picks the best")
    score_when: Literal["all", "each"] = Field(
        "all", description="score when all drafts are written, or each at once"
    )
    scorer_prefix_cache: bool = Field(True, description="the scorer reuses what it has read")

    def samples(self) -> int:
        """All n."""
        return self.n

    def scored(self) -> bool:
        """Only with the scorer."""
        return self.verifier == "scorer"

    def oracle(self) -> bool:
        """With the oracle as verifier."""
        return self.verifier == "oracle"

    def deployments(self) -> tuple[str, ...]:
        """Generator, and the scorer if there is one."""
        return ("generator", "scorer") if self.scored() else ("generator",)

    def run(self, question: Asked, call: Caller) -> Program:
        """Drafts, scores, best draft."""
        drafts = draft(question, call, self.n)
        scores: list[Call] = []
        left = list(drafts)
        while left:
            at_once = 1 if self.scored() and self.score_when == "each" else len(left)
            done = yield call.first(at_once, left)
            if self.scored():
                scores += [
                    call.score(each.context, reuse_prefix=self.scorer_prefix_cache) for each in done
                ]
            left = [each for each in left if each not in done]
        yield call.all(scores)
        best = max(range(self.n), key=lambda sample: self._merit(question, sample))
        chosen = question.sample(best)
        return Outcome(chosen.answer, chosen.correct, (drafts[best], *scores))

    def _merit(self, question: Asked, sample: int) -> float:
        if self.verifier == "oracle":
            return float(bool(question.sample(sample).correct))
        return question.score(sample)

    def expected_accuracy(self, samples: Sequence[Sample], scores: Sequence[float]) -> float | None:
        """Coverage with the oracle; with a scorer, the chance that the highest score is right."""
        if self.verifier == "oracle":
            return expected_best_of_n(samples, self.n)
        return expected_best_by_score(samples, self.n, scores)


class MajorityVote(Strategy):
    """Ask n times and take the most frequent answer (self-consistency).

    With `early_stop` the vote ends, and the remaining drafts are cancelled, as soon as they could
    no longer change it.
    """

    name: ClassVar[str] = "majority_vote"
    selects: ClassVar[bool] = True

    n: int = Field(16, ge=1, description="samples")
    early_stop: bool = Field(False, description="stop once the vote is decided")

    def samples(self) -> int:
        """All n."""
        return self.n

    def run(self, question: Asked, call: Caller) -> Program:
        """Drafts, votes."""
        drafts = draft(question, call, self.n)
        if not self.early_stop:
            return voted(question, (yield call.all(drafts)))
        done: list[Call] = []
        left = list(drafts)
        votes: Counter[Answer] = Counter()
        while left and not decided(votes, len(left)):
            for each in (yield call.first(1, left)):
                done.append(each)
                left.remove(each)
                answer = question.sample(each.sample or 0).answer
                if answer is not None:
                    votes[answer] += 1
        call.cancel(left)
        return voted(question, done)

    def expected_accuracy(self, samples: Sequence[Sample], scores: Sequence[float]) -> float | None:
        """Chance that the plurality of n samples is right."""
        return expected_majority(samples, self.n)


class FirstFinish(Strategy):
    """Ask n times, answer with the first k that finish, cancel the rest."""

    name: ClassVar[str] = "first_finish"
    selects: ClassVar[bool] = True

    n: int = Field(16, ge=1, description="samples")
    k: int = Field(1, ge=1, description="finished samples that vote")

    @model_validator(mode="after")
    def _k_of_n(self) -> "FirstFinish":
        if self.k > self.n:
            raise ValueError(f"k {self.k} must not exceed n {self.n}")
        return self

    def samples(self) -> int:
        """All n."""
        return self.n

    def run(self, question: Asked, call: Caller) -> Program:
        """Drafts, the first k, a vote."""
        drafts = draft(question, call, self.n)
        done = yield call.first(self.k, drafts)
        call.cancel(drafts)
        return voted(question, done[: self.k])

    def expected_accuracy(self, samples: Sequence[Sample], scores: Sequence[float]) -> float | None:
        """Chance that the shortest (or the plurality of the k shortest) is right."""
        return expected_first_finish(samples, self.n, self.k)
