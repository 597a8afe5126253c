"""A serving fleet on a trace, simulated by events: traffic, batching, queues, routing, scaling, failures, and what they cost."""
