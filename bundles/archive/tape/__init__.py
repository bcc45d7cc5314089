"""What the network answered while a build was recorded: a value that the archive carries and the host replays."""
