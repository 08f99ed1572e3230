"""Where training runs: one job description, one launcher per place."""
