"""Whole clusters in one process, in virtual time, under seeded faults.

    disk       a member's disk that loses what was not synced
    network    loss, duplication, reordering, delay, partitions (one-way, too)
    member     the core with those two, as the driver drives it
    laws       what must hold after every step
    world      a cluster, its clients and its troublemaker, from one seed
    mutations  bugs planted in the core, each of which the laws must catch

`python -m tests.raft.simulation --seeds 1000` runs many; a failure prints its seed and the command that replays it.
"""
