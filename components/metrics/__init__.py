"""Metrics: captions scored as COCO's evaluation does, and the intervals of any score."""
