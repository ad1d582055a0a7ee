"""Two ends of a wire, and what happens in between: frames are held back for a time, or lost.

The kernel's own means for this, the netem qdisc, is missing from many kernels; this needs nothing but packet sockets.
Run as a script by a bare interpreter inside the wire's network namespace:
`python -I -S relay.py LINK LINK DELAY_S JITTER_S LOSS SEED READY_PATH`. Frames keep their order on each way.

Source  packet(7), PACKET_VNET_HDR: each frame comes with its offload header and leaves with it, so that large segments
and unfinished checksums pass unharmed.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import sys
import time

ETH_P_ALL = 0x0003  # include/uapi/linux/if_ether.h
SOL_PACKET, PACKET_VNET_HDR = 263, 15  # include/uapi/linux/if_packet.h
LARGEST_FRAME = 10 + 18 + (1 << 16)  # struct virtio_net_hdr, Ethernet with VLAN tag, and a whole GSO segment
MOST_HELD = 20_000


class End:
    """One end. `last_due_s` keeps jitter from overtaking."""

    def __init__(self, link: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((link, ETH_P_ALL))
        self.socket.setblocking(False)
        self.last_due_s = 0.0


def main(first: str, second: str, delay: str, jitter: str, loss: str, seed: str, ready: str) -> None:
    ends = End(first), End(second)
    dice = random.Random(int(seed))
    with open(ready, "w"):
        pass
    selector = selectors.DefaultSelector()
    selector.register(ends[0].socket, selectors.EVENT_READ, ends)
    selector.register(ends[1].socket, selectors.EVENT_READ, ends[::-1])
    held: list[tuple[float, int, End, bytes]] = []
    count = 0
    while True:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        for key, _ in selector.select(wait_s):
            source, target = key.data
            for frame in arrived(source):
                if len(held) >= MOST_HELD or dice.random() < float(loss):
                    continue
                due_s = time.monotonic() + float(delay) + dice.uniform(-1, 1) * float(jitter)
                target.last_due_s = max(due_s, target.last_due_s)
                count += 1
                heapq.heappush(held, (target.last_due_s, count, target, frame))
        now_s = time.monotonic()
        while held and held[0][0] <= now_s:
            _, _, target, frame = heapq.heappop(held)
            try:
                target.socket.send(frame)
            except OSError:
                continue  # the link is down or its queue is full: a frame is lost, as on a wire


def arrived(end: End) -> list[bytes]:
    """What has come in at this end; not what went out by it."""
    frames: list[bytes] = []
    while len(frames) < 64:
        try:
            frame, address = end.socket.recvfrom(LARGEST_FRAME)
        except OSError:  # nothing more, or the link is down
            break
        if address[2] != socket.PACKET_OUTGOING:
            frames.append(frame)
    return frames


if __name__ == "__main__":
    main(*sys.argv[1:])
