"""These files need a vLLM environment (`make test-vllm`), which pytest does not run in."""

collect_ignore_glob = ["*.py"]
