"""Speed of the simulation: `python -m benchmarks [JOB...]`, see jobs.py."""
