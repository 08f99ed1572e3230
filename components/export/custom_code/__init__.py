"""Modelling code that an export carries along where stock Llava can't express the model; it needs transformers alone."""
