"""Watching models in use: signals, sketches, detectors of change, rules from alarm to action."""
