"""The three ways of training a bias away, by name."""

from typing import Literal

Method = Literal["counterfactual", "balanced", "reweigh"]
METHODS: tuple[Method, ...] = ("counterfactual", "balanced", "reweigh")
