"""The service that answers builds from tapes: a program of its own, in a container, of the standard library alone."""
