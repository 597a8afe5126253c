"""Policy + evidence -> decision. Pure and deterministic: no files but the policy's own, no clock, no chance."""
