"""The swarm's objects as the Engine API writes them in JSON, in both directions. Pure.

Reading refuses what swarmpy does not have yet by name; writing leaves out what is empty, as Docker does.
"""
