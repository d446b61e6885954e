"""Physics alignment: a generator post-trained on energies and forces (PackFlow, 2.4 and 4.2)."""
