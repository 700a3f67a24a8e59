"""Sweeps: tables as lists of cells, the plan of their distinct stages, and what runs it."""
