"""Two head tables side by side: what is compared with what, and what changed."""
