"""Datasets as people have them: rows of any format, of any layout, as samples."""
