"""Language model families; `registry.py` lists them."""
