"""Relaxation of crystals: protocols, guards and the optimiser loop."""
