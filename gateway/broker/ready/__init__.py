"""Mappings that come with the gateway, chosen by `use: NAME`. Each file names its source."""
