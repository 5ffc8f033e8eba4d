"""One run as several processes: joining, watching each other, stopping; and what a process sets up first."""
