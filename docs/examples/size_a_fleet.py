"""Size a fleet for a launch: how many GPUs of which kind, if twice as many come as expected?"""

import ttcsim

EXPECTED_RATE = 0.5  # questions per second

if __name__ == "__main__":
    for rate in (EXPECTED_RATE, 2 * EXPECTED_RATE):
        found = ttcsim.plan(
            models=["Llama-3.1-8B"],
            hardware=["h100_sxm", "l40s"],
            tensor_parallel=[1, 2],
            strategies=["majority_vote:n=2|4"],
            slo=["makespan_p95:150s", "accuracy:0.7"],
            question_rate=rate,
            questions=60,
            seeds=4,
        )
        print(f"{rate:g} questions/s:")
        if found.winner is None:
            miss = found.closest_misses[0]
            print(f"  no plan; closest: {miss.candidate.values} ({miss.reason})")
            continue
        for option in (found.winner, *found.runners_up):
            values = option.candidate.values
            print(
                f"  {option.devices:2} x {values['hardware']:9} tp {values['tensor_parallel']},"
                f" {values['strategy']}: ${option.usd_per_hour:.2f}/h,"
                f" p95 {option.measured['makespan_p95']:.0f} s"
            )
