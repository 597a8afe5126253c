"""As much of lm-evaluation-harness 0.4.13 as the bridge meets, without its data sets: for tests where it is not installed."""

__version__ = "0.4.13+fake"
