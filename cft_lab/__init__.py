"""cft_lab: critique fine-tuning experiments, from raw questions to graded results."""
