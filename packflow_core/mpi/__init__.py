"""Generators under MPI: a launcher starts ranks, which share the candidates of a run."""
