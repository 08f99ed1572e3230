"""Vision tower families; `registry.py` lists them."""
