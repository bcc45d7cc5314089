"""Images out of files: OCI layouts, docker save's and hauler's archives, and our own."""
