"""fieldbus."""
