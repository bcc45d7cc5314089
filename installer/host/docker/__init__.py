"""The Docker of this host, and of others over ssh."""
