"""Files here and elsewhere: atomic writes, checksums, and fetching from web servers, S3 and the Hugging Face hub."""
