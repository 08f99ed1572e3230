"""A first look at a dataset: what it has, and what a model will see of it."""
