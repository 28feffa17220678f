"""Choose hardware for a reasoning product under an energy budget per question."""

import ttcsim

BUDGET_J = 8000
STRATEGIES = ("single", "majority_vote:n=4", "majority_vote:n=16", "first_finish:n=4")
DEVICES = {"h100_sxm": 2, "h200_sxm": 1, "b200_sxm": 1}  # devices that share the model

rows = []
for device, size in DEVICES.items():
    scenario = ttcsim.Scenario(
        generator=ttcsim.Deployment(model="Qwen3-32B", hardware=device, tensor_parallel=size),
        trace="math500_r1_8b",
        questions=60,
        arrivals={"kind": "poisson", "rate": 0.2},
        strategy="single",
    )
    full_load = {row.strategy: row for row in ttcsim.estimate(scenario, STRATEGIES).rows}
    for result in ttcsim.compare(scenario, STRATEGIES).results:
        summary = result.summary
        rows.append((summary, device, size, full_load[summary["strategy"]]))

print(f"within {BUDGET_J} J a question at 0.2 questions/s, most accurate first:")
affordable = [row for row in rows if row[0]["energy_per_question_j"] <= BUDGET_J]
for summary, device, size, full in sorted(affordable, key=lambda row: -row[0]["accuracy_expected"]):
    print(
        f"  {size} x {device:8}  {summary['strategy']:20}"
        f" accuracy {summary['accuracy_expected']:.3f}"
        f"  {summary['energy_per_question_j']:5.0f} J  p95 {summary['makespan_p95_s']:4.0f} s"
        f"  (full load: {full.saturated_energy_j:5.0f} J)"
    )
if not affordable:
    least = min(rows, key=lambda row: row[0]["energy_per_question_j"])
    print(f"  none; the least is {least[0]['energy_per_question_j']:.0f} J on {least[1]}")
print("at full load, least joules a question:")
for _, device, size, full in sorted(rows, key=lambda row: row[3].saturated_energy_j)[:3]:
    print(f"  {size} x {device:8}  {full.strategy:20} {full.saturated_energy_j:5.0f} J")
