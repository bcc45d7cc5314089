"""A real cluster of Kubernetes on a host of the testbed; it takes long to compile, and `make kubernetes` wants it."""
