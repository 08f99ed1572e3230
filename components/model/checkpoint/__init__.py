"""Distributed checkpoints: one writer, one reader, whole models and models larger than memory."""
