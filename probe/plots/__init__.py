"""Figures from tables: plotly, one look. A module a kind of result; the maps of heads are in `heads`."""
