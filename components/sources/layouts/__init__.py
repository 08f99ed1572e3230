"""Layouts of rows: what columns they have, and what a row is as samples. A layout is one file, and a row of the registry."""
