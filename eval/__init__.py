"""Honest evaluation of synapse predictions, free of torch."""
