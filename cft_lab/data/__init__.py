"""From sources and arms to training examples."""
