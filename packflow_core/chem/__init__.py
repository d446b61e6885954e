"""Molecules: graphs, features, conformers, hydrogens and the repair of generated molecules."""
