"""What `experiment` configures of learning: optimizers, the train state, and rules for steps that go wrong."""
