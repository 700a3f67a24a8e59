"""Benchmarks, grading, inference protocols and statistics."""
