"""A question while it is being asked: its text, and every draw a strategy may make about it.

Draws are keyed by (seed, question, sample, purpose), never by call order, so all strategies see
the same samples, scores and step lengths.
"""

import math
from collections.abc import Sequence

from ttcsim.errors import InputError
from ttcsim.workloads import draws
from ttcsim.workloads.context import Context, ContextSpace
from ttcsim.workloads.question import Answer, Question, Sample

STEP_MEDIAN_TOKENS = 100
"""Median length of a reasoning step; s1's step control uses "about 100". [tokens]"""
STEP_CAP_TOKENS = 256
"""Longest step; the cap of REBASE and ETS (docs/strategies.md). [tokens]"""
STEP_SD_LOG = 0.5
"""Spread of log step length. Assumption: no measured distribution is public."""


class Asked:
    """One question with its samples in the order in which this run draws them.

    Args:
        question: The question.
        seed: Seed of the scenario.
        context: Its prompt.
        dprime: How far scores of right answers lie above those of wrong ones, in standard
            deviations, where the trace has no scores.
        resample: Draw traced samples again when more are asked for than there are.
        space: Texts that questions share.
    """

    def __init__(
        self,
        question: Question,
        seed: int,
        context: Context,
        dprime: float = 1.0,
        resample: bool = False,
        space: ContextSpace | None = None,
    ) -> None:
        self.question = question
        self.seed = seed
        self.context = context
        self.dprime = dprime
        self.resample = resample
        self._steps: dict[int, tuple[int, ...]] = {}
        self._space = space or ContextSpace()
        self._order: list[int] = []  # drawn when it is first needed

    @property
    def id(self) -> str:
        """Identity of the question."""
        return self.question.id

    def shared(self, name: str, tokens: int) -> Context:
        """A text that all questions share under a name, such as instructions."""
        return self._space.root(name, tokens)

    def index(self, sample: int) -> int:
        """Place in the trace of the run's sample number `sample`.

        Raises:
            InputError: If the trace has fewer samples and `resample` is off.
        """
        traced = len(self.question.samples)
        if sample < traced:
            if traced == 1:
                return sample
            if not self._order:
                self._order = draws.permutation(self.seed, traced, self.id, "order")
            return self._order[sample]
        if not self.resample or not traced:
            raise InputError(
                f"question {self.id}: sample {sample + 1} is asked for, the trace has {traced};"
                " use fewer samples, or set resample=true to draw them again"
            )
        return draws.integer(self.seed, traced, self.id, sample, "resample")

    def sample(self, sample: int) -> Sample:
        """Sample number `sample` of this run."""
        return self.question.samples[self.index(sample)]

    def score(self, sample: int) -> float:
        """Scorer's verdict on a whole sample: from the trace, else d'·correct + N(0, 1)."""
        index = self.index(sample)
        traced = self.question.samples[index].score
        return traced if traced is not None else self._modelled(index)

    def scores(self) -> list[float]:
        """Scores of all traced samples, in trace order."""
        return [
            sample.score if sample.score is not None else self._modelled(index)
            for index, sample in enumerate(self.question.samples)
        ]

    def _modelled(self, index: int) -> float:
        signal = self.dprime * bool(self.question.samples[index].correct)
        return signal + draws.normal(self.seed, self.id, index, "score")

    def noisy_score(self, sample: int, purpose: str, *key: int, averaged: int = 1) -> float:
        """A modelled verdict on (part of) a sample: d'·correct + N(0, 1/averaged)."""
        noise = draws.normal(self.seed, self.id, sample, purpose, *key)
        return self.dprime * bool(self.sample(sample).correct) + noise / math.sqrt(averaged)

    def donor(self, purpose: str, *key: int) -> int:
        """A sample that lends its remaining length and answer to a branch."""
        return draws.integer(self.seed, len(self.question.samples), self.id, purpose, *key)

    def uniform(self, purpose: str, *key: int) -> float:
        """A uniform draw from (0, 1)."""
        return draws.uniform(self.seed, self.id, purpose, *key)

    def steps(self, sample: int) -> tuple[int, ...]:
        """Step lengths of a sample: traced, else cut from its total by keyed draws. [tokens]"""
        index = self.index(sample)
        if index not in self._steps:
            self._steps[index] = self._cut(index)
        return self._steps[index]

    def _cut(self, index: int) -> tuple[int, ...]:
        traced = self.question.samples[index]
        if traced.steps:
            return traced.steps
        steps: list[int] = []
        left = traced.output_tokens
        while left > 0:
            spread = STEP_SD_LOG * draws.normal(self.seed, self.id, index, "step", len(steps))
            length = min(max(round(STEP_MEDIAN_TOKENS * math.exp(spread)), 1), left)
            steps.append(min(length, STEP_CAP_TOKENS))
            left -= steps[-1]
        return tuple(steps)

    def _verdict(self, samples: Sequence[int]) -> bool | None:
        """Whether samples without an answer are right: several of them only if all are wrong."""
        verdicts = [self.sample(sample).correct for sample in samples]
        if len(verdicts) == 1:
            return verdicts[0]
        return False if all(verdict is False for verdict in verdicts) else None

    def vote(self, samples: Sequence[int]) -> tuple[Answer | None, bool | None, list[int]]:
        """Plurality answer of some samples: (answer, correct, who voted for it).

        Samples without an answer do not vote; a tie falls to a keyed draw.
        """
        ballots: dict[Answer, list[int]] = {}
        for sample in samples:
            answer = self.sample(sample).answer
            if answer is not None:
                ballots.setdefault(answer, []).append(sample)
        if not ballots:
            return None, self._verdict(samples), list(samples)
        most = max(len(votes) for votes in ballots.values())
        tied = [answer for answer, votes in ballots.items() if len(votes) == most]
        winner = tied[0]
        if len(tied) > 1:
            tied.sort(key=str)
            winner = tied[draws.integer(self.seed, len(tied), self.id, "tie", len(samples))]
        voters = ballots[winner]
        return winner, self.sample(voters[0]).correct, voters
