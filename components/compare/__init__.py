"""Comparison of finished runs: scores, samples, curves, settings, speed."""
