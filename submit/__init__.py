"""The submission: streaming writer, check, score, upload."""
