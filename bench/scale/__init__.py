"""A whole swarm at scale on one machine: real managers, and nodes that are nothing but their sessions.

    swarm.py     the managers: daemons of a lab, their API, their memory and processor time
    agents.py    a process with many nodes, each with its own certificate, connection and session
    reads.py     what users look at all through, and how long they wait for it
    phases.py    nodes join, services start, one is updated, nodes die, all is removed
    report.py    the figures, the goals, build/scale.json

The managers are whole daemons, with Raft's log on the disk. A node is simulated from where its daemon would start a
container: it speaks through the worker's own `Session` and `Reporter`, over mutual TLS, with a certificate that it got
for a join token.
"""
