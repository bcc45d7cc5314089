"""A build that is run once, online, and what it needed: the way to a record."""
