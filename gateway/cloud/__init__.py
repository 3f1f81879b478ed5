"""The conversation with the cloud: states (session), translation (codec), the gRPC stream (link)."""
