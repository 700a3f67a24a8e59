"""What generates text: one protocol, one file per engine."""
