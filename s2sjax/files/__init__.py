"""Files that people give us or keep, read and written safely: paths, JSON, a run directory."""
