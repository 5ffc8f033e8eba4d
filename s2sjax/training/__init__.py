"""Training: the loop, one step of it, and what is said around it."""
