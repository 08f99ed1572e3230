"""Model families: what Hugging Face layouts become which architecture; a family is one file."""
