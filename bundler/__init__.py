"""Creating an archive: registry -> archive. This package can only read from registries."""
