"""Evaluation: predictions and ground truth become scores with controls, intervals, gates and sample pictures."""
