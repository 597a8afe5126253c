"""What serving costs: memory and KV budgets, prefill and decode times, cold starts; arithmetic on shapes and published rates."""
