"""LLaVA-style JSON and pictures (zip or folder) to WebDataset shards."""
