"""Serial lines by description: frames, checksums and fields without code."""
