"""What a host may have no program for: keys and certificates, and the hash of a password. Standard library only."""
