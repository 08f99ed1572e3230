"""The kinds of models that answer, a file each; `components/generate/registry.py` lists them."""
