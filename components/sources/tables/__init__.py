"""Formats of tables: how their rows are counted, and read from any place."""
