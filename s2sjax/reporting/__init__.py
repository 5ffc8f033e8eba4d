"""What a run tells: log lines, its records, pictures, and goodput."""
