"""Step-level search with a process reward model: beam search and diverse verifier tree search.

A path follows the traced sample it was given (its donor): step lengths, and in the end its answer.
A child that branches off a kept path takes the rest of another donor, so answers are modelled.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, model_validator

from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call, Caller
from ttcsim.workloads.context import Context
from ttcsim.workloads.strategy import Outcome, Program, Strategy


@dataclass(slots=True)
class Path:
    """A partial solution: its text, whose sample it follows, and the calls that made it."""

    context: Context
    donor: int
    score: float = 0.0
    call: Call | None = None
    parent: "Path | None" = None
    ended: bool = False

    def calls(self) -> tuple[Call, ...]:
        """The generate calls from the root to here."""
        found = []
        path: Path | None = self
        while path is not None:
            if path.call is not None:
                found.append(path.call)
            path = path.parent
        return tuple(found)


class _Search(Strategy):
    """What beam search and DVTS share: paths that grow step by step and are scored."""

    accuracy_model: ClassVar[str | None] = "donor"

    n: int = Field(16, ge=1, description="paths grown in each round")
    width: int = Field(4, ge=1, description="children of a kept path")
    max_steps: int = Field(40, ge=1, description="rounds at most")
    lock_step: bool = Field(
        True, description="score when all steps of a round are written (else each at once)"
    )
    scorer_prefix_cache: bool = Field(
        False, description="the scorer reuses what it has read (else it reads all text each round)"
    )
    problems_in_flight: int | None = Field(
        1, ge=1, description="questions searched at once, None for no limit"
    )

    @model_validator(mode="after")
    def _width_divides_n(self) -> "_Search":
        if self.n % self.width:
            raise ValueError(f"width {self.width} must divide n {self.n}")
        return self

    def samples(self) -> int:
        """Donors of the first round."""
        return self.n

    def scored(self) -> bool:
        """By the process reward model."""
        return True

    def in_flight(self) -> int | None:
        """See `problems_in_flight`."""
        return self.problems_in_flight

    def deployments(self) -> tuple[str, ...]:
        """Generator and scorer."""
        return ("generator", "scorer")

    def grow(
        self, question: Asked, call: Caller, paths: Sequence[Path], step: int
    ) -> Generator[Any, Any, list[Path]]:
        """Write one step on every path and score it; return the longer paths."""
        calls = []
        grown = []
        for path in paths:
            steps = question.steps(path.donor)
            tokens = steps[min(step, len(steps) - 1)]
            ends = step >= len(steps) - 1
            if step == self.max_steps - 1:  # the last round runs to the end
                tokens, ends = max(sum(steps[step:]), tokens), True
            written = call.generate(path.context, tokens=tokens)
            calls.append(written)
            grown.append(Path(path.context, path.donor, call=written, parent=path, ended=ends))
        yield from self._score(call, calls)
        for number, path in enumerate(grown):
            assert path.call is not None
            path.context = path.call.context
            path.score = question.noisy_score(path.donor, self.name, step, number)
        return grown

    def _score(self, call: Caller, calls: list[Call]) -> Generator[Any, Any, None]:
        scores: list[Call] = []
        left = list(calls)
        while left:
            done = yield call.first(len(left) if self.lock_step else 1, left)
            finished = set(done)
            left = [each for each in left if each not in finished]
            scores += [
                call.score(each.context, reuse_prefix=self.scorer_prefix_cache) for each in done
            ]
        yield call.all(scores)

    def branch(self, question: Asked, kept: Path, step: int, number: int, eldest: bool) -> Path:
        """A child of a kept path; the eldest keeps its donor, others draw a new one."""
        donor = kept.donor if eldest else question.donor(self.name, step, number)
        return Path(kept.context, donor, parent=kept)


def answered(question: Asked, paths: Sequence[Path]) -> Outcome:
    """The answer of the best path, by score."""
    best = max(paths, key=lambda path: path.score)
    sample = question.sample(best.donor)
    return Outcome(sample.answer, sample.correct, best.calls())


class BeamSearch(_Search):
    """Beam search: keep the best n/width paths each round, branch each into `width`.

    The serving defaults are those of Hugging Face's search-and-learn: one problem at a time, and
    the reward model reads the whole text every round. Serving like REBASE's is lock_step=false,
    scorer_prefix_cache=true, problems_in_flight=8; its softmax widths are not modelled.
    """

    name: ClassVar[str] = "beam_search"

    def run(self, question: Asked, call: Caller) -> Program:
        """Rounds of growing, scoring, keeping and branching until no path is left."""
        live = [Path(question.context, donor) for donor in range(self.n)]
        complete: list[Path] = []
        for step in range(self.max_steps):
            grown = yield from self.grow(question, call, live, step)
            complete += [path for path in grown if path.ended]
            going = sorted(
                (path for path in grown if not path.ended), key=lambda p: p.score, reverse=True
            )
            if not going:
                break
            kept = going[: self.n // self.width]
            live = [
                self.branch(question, kept[number % len(kept)], step, number, number < len(kept))
                for number in range(self.n)
            ]
        return answered(question, complete)


class Dvts(_Search):
    """Diverse verifier tree search: n/width independent subtrees, each keeps its best child."""

    name: ClassVar[str] = "dvts"

    def samples(self) -> int:
        """One donor a subtree."""
        return self.n // self.width

    def run(self, question: Asked, call: Caller) -> Program:
        """Rounds over all live subtrees; each is greedy by score."""
        roots = [Path(question.context, donor) for donor in range(self.n // self.width)]
        trees = dict(enumerate(roots))
        complete: list[Path] = []
        for step in range(self.max_steps):
            children = [
                self.branch(question, path, step, tree * self.width + number, number == 0)
                for tree, path in trees.items()
                for number in range(self.width)
            ]
            grown = yield from self.grow(question, call, children, step)
            for place, tree in enumerate(list(trees)):
                brood = grown[place * self.width : (place + 1) * self.width]
                best = max(brood, key=lambda path: path.score)
                if best.ended:
                    complete.append(best)
                    del trees[tree]
                else:
                    trees[tree] = best
            if not trees:
                break
        return answered(question, complete)
