"""An HTTP proxy on loopback that opens TLS and answers by itself: the recorder's end online, the replay's offline."""
