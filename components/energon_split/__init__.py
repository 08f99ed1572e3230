"""WebDataset shards to an energon dataset: index, splits, blend file."""
