"""Token sequences and the training loop."""
