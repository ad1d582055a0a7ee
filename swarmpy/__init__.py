"""swarmpy: a container engine and a self-healing cluster in one daemon per host."""
