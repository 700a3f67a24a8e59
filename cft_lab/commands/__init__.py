"""What `python -m cft_lab` can be asked, a file per command."""
