"""Installing an archive: archive -> registry, then a builder. This package can only write to one registry."""
