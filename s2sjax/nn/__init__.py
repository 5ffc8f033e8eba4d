"""Thin Linen layers: they hold parameters for the functions in `ops` and know nothing of whole models."""
