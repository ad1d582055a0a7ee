"""`python -m swarmpy.lab VERB …`: the verbs without the rest of the command line client."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from swarmpy.errors import SwarmpyError
from swarmpy.lab import verbs
from swarmpy.lab.cluster import HostStatus


def main(arguments: Sequence[str]) -> int:
    command: list[str] = []
    if "--" in arguments:
        split = list(arguments).index("--")
        arguments, command = arguments[:split], list(arguments[split + 1 :])
    given = _parser().parse_args(arguments)
    try:
        return _carry_out(given, command)
    except SwarmpyError as failure:
        sys.stderr.write(f"lab: {failure}\n")
        return 1


def _carry_out(given: argparse.Namespace, command: list[str]) -> int:
    name: str = given.name or verbs.DEFAULT_NAME
    match given.verb:
        case "up":
            _show(name, verbs.up(name, given.managers, given.workers, swarm=not given.no_swarm, progress=_say))
        case "ls":
            if given.format == "json":
                sys.stdout.write(json.dumps(verbs.ls_json(given.name), indent=1) + "\n")
            else:
                for lab, hosts in verbs.ls(given.name).items():
                    _show(lab, hosts)
        case "exec":
            return verbs.execute(given.host, command, name)
        case "kill":
            verbs.kill(given.host, name, with_containers=given.with_containers)
        case "start":
            verbs.start(given.host, name)
        case "stop":
            verbs.stop(given.host, name)
        case "pause":
            verbs.pause(given.host, name, daemon_only=given.daemon_only)
        case "resume":
            verbs.resume(given.host, name, daemon_only=given.daemon_only)
        case "partition":
            verbs.partition(given.group, name, one_way=given.one_way)
        case "delay":
            verbs.delay(given.hosts, given.seconds, name, jitter_s=given.jitter, loss=given.loss)
        case "heal":
            verbs.heal(name)
        case "down":
            for gone in verbs.down(name, everything=given.all):
                _say(f"lab {gone} is gone")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m swarmpy.lab", description="Whole clusters on this machine.")
    subparsers = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = subparsers.add_parser(name, help=text, description=text)
        made.add_argument("--name", help=f"the lab ({verbs.DEFAULT_NAME})")
        return made

    up = verb("up", "make a lab")
    up.add_argument("--managers", type=int, default=3)
    up.add_argument("--workers", type=int, default=3)
    up.add_argument("--no-swarm", action="store_true", help="leave the daemons alone, in no swarm")
    verb("ls", "what there is").add_argument("--format", choices=("table", "json"), default="table")
    for name, text in (("exec", "run a command in a host: exec HOST -- CMD"), ("start", "boot what is down"),
                       ("stop", "end the daemon with SIGTERM")):  # fmt: skip
        verb(name, text).add_argument("host")
    kill = verb("kill", "kill a host's daemon with SIGKILL")
    kill.add_argument("host")
    kill.add_argument("--with-containers", action="store_true", help="the whole host, as if power failed")
    for name, text in (("pause", "let a host stand still"), ("resume", "let it go on")):
        made = verb(name, text)
        made.add_argument("host")
        made.add_argument("--daemon-only", action="store_true", help="its containers go on")
    partition = verb("partition", "cut groups of hosts off from each other: partition A,B C,D")
    partition.add_argument("group", nargs="+")
    partition.add_argument("--one-way", action="store_true", help="only what the first group sends is lost")
    delay = verb("delay", "make the links of hosts slow or lossy")
    delay.add_argument("hosts")
    delay.add_argument("seconds", type=float)
    delay.add_argument("--jitter", type=float, default=0.0, help="seconds")
    delay.add_argument("--loss", type=float, default=0.0, help="probability, 0 to 1")
    verb("heal", "no partition, delay or loss any more")
    verb("down", "leave nothing").add_argument("--all", action="store_true", help="every lab, crashed ones too")
    return parser


def _show(lab: str, hosts: Sequence[HostStatus]) -> None:
    rows = [("LAB", "HOST", "ROLE", "ADDRESS", "STATE", "DOCKER_HOST")]
    rows += [(lab, host.name, host.role, host.address, host.state, host.docker_host) for host in hosts]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
