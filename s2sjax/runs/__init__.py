"""A run directory: claimed, opened, evaluated, averaged, compared."""
