"""Training: from what the store holds to a better checkpoint, as InstructGPT did it (arXiv:2203.02155)."""
