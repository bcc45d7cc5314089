"""Fast tests of one module each; servers they start listen on loopback."""
