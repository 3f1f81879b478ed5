"""rules/nodes."""
