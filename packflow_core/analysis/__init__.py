"""What the relaxed crystals are worth: metrics, symmetry, duplicates, matches, pictures, report."""
