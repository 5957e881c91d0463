"""Ablation studies: what is asked, the folder that remembers, and who computes."""
