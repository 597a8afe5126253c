"""What a model is and what a token costs, from its header alone; what its chat template does."""
