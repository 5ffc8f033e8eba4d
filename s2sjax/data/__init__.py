"""Everything between files and batches: NumPy and grain, never JAX."""
