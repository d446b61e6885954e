"""The generator: PackFlow transformers, the flow between noise and crystals, and its sampler."""
