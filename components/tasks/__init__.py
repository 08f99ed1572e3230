"""Kinds of evaluation tasks: how ground truth is read, asked about, parsed and scored."""
