"""What happens over time: architecture, step cost, KV blocks, scheduler, engine, cluster."""
