"""What a batch means: the loss of a batch, and text in, text out."""
