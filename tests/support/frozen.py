"""Imported last by a server of forks: no fork looks through what all share, nor copies its memory to do so."""

import gc

gc.collect()
gc.freeze()
