"""Baselines: proposals without a model, to compare the model with."""
