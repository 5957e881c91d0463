"""Tasks: prompts whose right answer is known, in pairs, and the number that says how well a model answers."""
