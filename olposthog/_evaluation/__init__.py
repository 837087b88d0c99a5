"""What an evaluation decides: a decision for each flag, and all of one person's."""
