"""Side-by-side measurements: ours, the peer, the ratio, on the same machine in turn."""
