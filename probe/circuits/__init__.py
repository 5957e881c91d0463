"""Circuits: the graph of a model, what is found in it, and the files that keep it."""
