"""swarmpy: a container engine and a self-healing cluster in one daemon per host."""

__version__ = "0.1.0"
