"""Crystals: the one representation that every stage reads and writes, and its geometry."""
