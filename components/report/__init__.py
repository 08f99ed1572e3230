"""The report: one page that shows what a run has learnt, how, and from what."""
