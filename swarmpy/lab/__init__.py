"""A whole cluster on one Linux machine: every host its own network, processes, mounts, data and API socket.

`swarmpy.lab.verbs` has one function for each thing a person does with a lab; `swarmpy.lab.cluster.Lab` is the lab
itself. Guide: docs/lab.md.
"""

from swarmpy.lab.cluster import HostStatus, Lab

__all__ = ["HostStatus", "Lab"]
