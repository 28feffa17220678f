"""A strategy of your own: ask twice; only if the answers differ, ask n more times and vote."""

import ttcsim


class AskTwice(ttcsim.Strategy):
    """Two samples; if they disagree, n more, and a vote."""

    name = "ask_twice"
    selects = True  # it only chooses among traced samples, so the trace knows what is right
    n: int = 3

    def samples(self) -> int:  # traced samples that it may use
        return 2 + self.n

    def run(self, question: ttcsim.Asked, call: ttcsim.Caller) -> ttcsim.Program:
        drafts = [call.generate(question.context, sample=i) for i in range(2)]
        yield call.all(drafts)
        if question.sample(0).answer != question.sample(1).answer:
            drafts += [call.generate(question.context, sample=2 + i) for i in range(self.n)]
            yield call.all(drafts)
        answer, correct, voters = question.vote(range(len(drafts)))
        return ttcsim.Outcome(answer, correct, tuple(drafts[i] for i in voters))


llama = ttcsim.Deployment(model="Llama-3.1-8B", hardware="h100_sxm")
for strategy in ttcsim.Single(), AskTwice(), ttcsim.MajorityVote(n=5):
    scenario = ttcsim.Scenario(
        generator=llama,
        trace="math500_r1_8b",
        arrivals={"kind": "poisson", "rate": 0.1},
        strategy=strategy,
    )
    found = ttcsim.simulate(scenario).summary
    print(
        f"{found['strategy']:20} right {found['accuracy']:.2f} ({found['accuracy_source']}),"
        f" {found['output_tokens_per_question']:6.0f} tokens,"
        f" p95 {found['makespan_p95_s']:5.1f} s, {found['energy_per_question_j']:4.0f} J"
    )
