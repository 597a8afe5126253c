"""How one run of `optimize` shares out its time: what a candidate will cost, which are tried, and which mixes of types."""
