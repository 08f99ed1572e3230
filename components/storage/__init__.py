"""Local files: atomic writes, checksums, and the content-keyed workspace."""
