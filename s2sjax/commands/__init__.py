"""The commands. `table` lists them; each is a module whose `run` takes its options' values and gives an exit status."""
