"""The leader's end of the wire to every node: sessions, heartbeats, assignments, the mesh, reports and logs."""

from swarmpy.manager.dispatcher.dispatcher import LEADER_ADDR, Dispatcher, Statistics

__all__ = ["LEADER_ADDR", "Dispatcher", "Statistics"]
