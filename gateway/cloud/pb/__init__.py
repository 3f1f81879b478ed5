"""cloud/pb."""
