"""Analyses: each takes a model and text and returns a table, one row a head."""
