"""How a model gets from its files to memory."""
