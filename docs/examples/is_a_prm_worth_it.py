"""Is a reward model worth its GPU? Best of n with a scorer against a vote with the same samples."""

import ttcsim

llama = ttcsim.Deployment(model="Llama-3.1-8B", hardware="h100_sxm")
scenario = ttcsim.Scenario(
    generator=llama,
    scorer=ttcsim.Deployment(model="Llama-3.1-8B", hardware="l40s"),
    trace="math_rm8",  # its samples have scores of a real reward model
    questions=100,
    arrivals={"kind": "poisson", "rate": 0.5},
    strategy="single",
)
pairs = ["majority_vote:n=2", "best_of_n:n=2", "majority_vote:n=4", "best_of_n:n=4",
         "majority_vote:n=8", "best_of_n:n=8"]  # fmt: skip
found = ttcsim.compare(scenario, pairs)
columns = ["strategy", "accuracy_expected", "makespan_p50_s", "energy_per_question_j", "devices"]
print(found.to_pandas()[[*columns, "cost_per_question_usd"]].round(4).to_string(index=False))

print("\nthe reward model against the vote, same samples, per question:")
for n in (2, 4, 8):
    differences = found.differences(f"majority_vote(n={n})").rows
    rows = {row.metric: row for row in differences if row.strategy == f"best_of_n(n={n})"}
    accuracy, joules = rows["accuracy"], rows["energy_j"]
    print(
        f"  n = {n}: accuracy {100 * accuracy.mean:+.1f} points"
        f" [{100 * accuracy.low:+.1f}, {100 * accuracy.high:+.1f}],"
        f" joules of calls {100 * joules.relative:+.0f} %"
    )
