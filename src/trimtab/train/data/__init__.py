"""Text to batches: tokenised once into shards, read in an order that a step's number alone decides."""
