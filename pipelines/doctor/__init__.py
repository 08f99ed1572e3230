"""`vlm doctor`: what a machine or a cluster has, and what is missing."""
