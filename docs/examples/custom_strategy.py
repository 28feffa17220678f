"""A strategy of your own: ask once; only if a scorer dislikes the answer, ask n more times."""

from pydantic import Field

import ttcsim


class Escalate(ttcsim.Strategy):
    """One sample; if it scores below the threshold, n more; the best score wins."""

    name = "escalate"
    selects = True  # it only chooses among traced samples, so the trace knows what is right
    n: int = Field(7, ge=1, description="further samples")
    threshold: float = Field(2.0, description="a score that is good enough")

    def samples(self) -> int:  # traced samples that it may use
        return 1 + self.n

    def scored(self) -> bool:  # a scorer's verdicts decide
        return True

    def deployments(self) -> tuple[str, ...]:  # what it calls
        return ("generator", "scorer")

    def run(self, question: ttcsim.Asked, call: ttcsim.Caller) -> ttcsim.Program:
        drafts: list[ttcsim.Call] = []
        for wave in range(1), range(1, 1 + self.n):
            new = [call.generate(question.context, sample=sample) for sample in wave]
            yield call.all(new)
            yield call.all([call.score(each.context) for each in new])
            drafts += new
            if question.score(0) >= self.threshold:
                break
        best = max(range(len(drafts)), key=question.score)
        chosen = question.sample(best)
        return ttcsim.Outcome(chosen.answer, chosen.correct, (drafts[best],))


llama = ttcsim.Deployment(model="Llama-3.1-8B", hardware="h100_sxm")
for strategy in ttcsim.Single(), Escalate(), ttcsim.BestOfN(n=8):
    scenario = ttcsim.Scenario(
        generator=llama,
        scorer=llama,
        scorer_placement="colocated",
        trace="math_rm8",
        arrivals={"kind": "poisson", "rate": 2.0},
        strategy=strategy,
    )
    found = ttcsim.simulate(scenario).summary
    print(
        f"{found['strategy']:15} right {found['accuracy']:.2f} ({found['accuracy_source']}),"
        f" {found['output_tokens_per_question']:5.0f} tokens,"
        f" p95 {found['makespan_p95_s']:5.1f} s, {found['energy_per_question_j']:4.0f} J"
    )
