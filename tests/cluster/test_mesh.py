"""Published ports of a swarm under everything that moves or breaks: no request fails that need not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.cluster.swarm import KeepAlive, Prober, Swarm, get, until

pytestmark = [pytest.mark.root, pytest.mark.cluster]

SHAPE = (3, 2)
PORT = 8080

# Takes its time to listen and to answer, and keeps connections. Told to end, it ends in the middle of what it does, or,
# when it is to be polite, answers who has asked and says that the connection will not be kept.
PROGRAM = """
import http.server, os, signal, socket, threading, time

ending = threading.Event()
working = threading.Semaphore(0)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        working.release()
        time.sleep(0.02)
        text = socket.gethostname().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        if ending.is_set():
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
        working.acquire()

    def log_message(self, *_):
        pass

def end():
    ending.wait()
    while working.acquire(blocking=False):
        working.release()
        time.sleep(0.01)
    os._exit(0)

def told(*_):
    if "POLITE" not in os.environ:
        os._exit(1)
    ending.set()

signal.signal(signal.SIGTERM, told)
threading.Thread(target=end).start()
time.sleep(0.5)
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("0.0.0.0", 80), Handler).serve_forever()
"""


def publish(swarm: Swarm, name: str, port: int, replicas: int, *options: str) -> None:
    create = ("service", "create", "-d", "--name", name, "--replicas", str(replicas), "-p", f"{port}:80")
    swarm.docker(*create, *options, on=swarm.leader()).ok()
    swarm.converged(name, replicas, on=swarm.leader())


def web(swarm: Swarm, replicas: int = 5) -> None:
    """Replicas of the web image, one to a node when there are five."""
    publish(swarm, "web", PORT, replicas, "web:1")
    for host in swarm.hosts:
        swarm.seen(host, PORT, replicas)


def scale(swarm: Swarm, replicas: int) -> None:
    swarm.docker("service", "scale", "-d", f"web={replicas}", on=swarm.leader()).ok()
    until(lambda: len(swarm.running("web", swarm.leader())) == replicas, f"{replicas} replicas")


def refused(swarm: Swarm, port: int = PORT) -> bool:
    """Whether every node refuses at once, asked from outside and by itself."""
    for host in swarm.hosts:
        try:
            get(swarm.address(host), port)
            return False
        except ConnectionRefusedError:
            pass
        if swarm.inside(host, "curl", "-s", "-m", "5", f"http://127.0.0.1:{port}/").code != CONNECTION_REFUSED:
            return False
    return True


CONNECTION_REFUSED = 7  # curl(1), EXIT CODES


def local(swarm: Swarm, host: str, port: int = PORT) -> str:
    """What a node itself gets from 127.0.0.1; "" for no answer within two seconds."""
    return swarm.inside(host, "curl", "-sf", "-m", "2", f"http://127.0.0.1:{port}/").out


def all_answer(swarm: Swarm, port: int = PORT) -> bool:
    try:
        return all(get(swarm.address(host), port) and local(swarm, host, port) for host in swarm.hosts)
    except OSError:
        return False


def test_no_request_fails_while_tasks_and_managers_move(swarm: Swarm) -> None:
    """New connections to a program that ends abruptly, and kept ones to one that is polite."""
    machine = ("--update-monitor", "500ms", "--mount", "type=bind,source=/,target=/machine,readonly")
    program = ("web:1", "busybox", "chroot", "/machine", sys.executable, "-I", "-S", "-c", PROGRAM)
    publish(swarm, "abrupt", PORT, 3, *machine, *program)
    publish(swarm, "polite", PORT + 1, 2, *machine, "--env", "POLITE=1", *program)
    for host in swarm.hosts:            # each learns by itself where the tasks are
        swarm.seen(host, PORT, 1)
        swarm.seen(host, PORT + 1, 1)
    addresses = [swarm.address(host) for host in swarm.hosts]
    keeping = KeepAlive(addresses, PORT + 1)
    clients = [Prober(addresses, PORT), Prober(addresses[::-1], PORT), keeping]

    def go_on() -> None:
        """Some more requests, and none has failed."""
        enough = [client.answers + 20 for client in clients]
        until(lambda: all(c.answers >= n or c.failures for c, n in zip(clients, enough, strict=True)), "answers")
        for client in clients:
            client.assert_unbroken()

    def both(*words: str) -> None:
        for name in ("abrupt", "polite"):
            swarm.docker("service", "update", *words, name, on=swarm.leader()).ok()

    with ExitStack() as stack:
        for client in clients:
            stack.enter_context(client.going())
        go_on()
        for replicas in ("5", "2"):
            both("--replicas", replicas)
            go_on()
        both("--env-add", "A=1")
        go_on()
        both("--update-order", "start-first", "--env-add", "B=1")
        go_on()
        swarm.docker("node", "update", "--availability", "drain", "worker1").ok()
        until(lambda: "worker1" not in swarm.converged("abrupt", 2).values(), "the drained node to be empty")
        until(lambda: "worker1" not in swarm.converged("polite", 2).values(), "the drained node to be empty")
        go_on()
        swarm.docker("node", "update", "--availability", "active", "worker1").ok()
        swarm.docker("node", "promote", "worker1").ok()
        until(lambda: swarm.docker("node", "ls", on="worker1").code == 0, "the new manager")
        swarm.docker("node", "demote", "worker1").ok()
        until(lambda: "ManagerStatus" not in swarm.node("worker1"), "it to be a worker again")
        go_on()
        leader = swarm.leader()
        others = [name for name in swarm.managers if name != leader]
        swarm.lab.kill(leader)
        until(lambda: swarm.leader(others) != leader, "another leader")
        go_on()
        swarm.lab.start(leader)
        until(lambda: swarm.ready(leader, others[0]), "the old leader to be back")
        go_on()
    assert keeping.reused > 100


def test_a_host_cut_off_from_everyone_serves_what_it_can_reach(swarm: Swarm) -> None:
    web(swarm)
    cut = next(host for host in swarm.running("web").values() if host in swarm.workers)
    everyone = swarm.seen(swarm.hosts[0], PORT, 5)
    swarm.lab.partition(cut)
    until(lambda: len({local(swarm, cut) for _ in range(12)}) == 1, "connections to its own replica alone", 15)
    assert local(swarm, cut) in everyone
    swarm.lab.heal()
    until(lambda: swarm.ready(cut), "the node to be back")
    until(lambda: len({local(swarm, cut) for _ in range(25)} - {""}) >= 5, "all replicas again, seen from there", 60)


def test_a_host_that_lost_power_answers_again(swarm: Swarm) -> None:
    web(swarm)
    victim = next(host for host in swarm.running("web").values() if host in swarm.workers)
    rest = [host for host in swarm.hosts if host != victim]
    swarm.lab.kill(victim, with_containers=True)
    until(lambda: victim not in swarm.converged("web", 5).values(), "its task to run elsewhere")
    with swarm.watched(PORT, rest) as prober:
        until(lambda: prober.answers > 30, "answers")
    prober.assert_unbroken()
    swarm.lab.start(victim)
    until(lambda: swarm.ready(victim), "the host to be ready")
    swarm.seen(victim, PORT, 5)


@pytest.mark.parametrize("breakage", ["nft flush ruleset", "ip link del sw-vx; ip link del sw-ing; ip link del sw0"])
def test_what_others_break_on_every_host_is_whole_again_soon(swarm: Swarm, breakage: str) -> None:
    web(swarm)
    for host in swarm.hosts:
        swarm.inside(host, "sh", "-c", breakage).ok()
    until(lambda: all_answer(swarm), "every node to answer", 15)
    for host in swarm.hosts:
        swarm.seen(host, PORT, 5)


def test_every_container_reaches_every_node(swarm: Swarm) -> None:
    """Its own among them: its connection may come back to itself."""
    web(swarm)
    ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {} 8080 | grep -q replica"
    for container, (host, _) in swarm.container_pids("web").items():
        for target in swarm.hosts:
            swarm.docker("exec", container, "sh", "-c", ask.format(swarm.address(target)), on=host).ok()


def test_without_replicas_a_port_is_refused_at_once(swarm: Swarm) -> None:
    web(swarm)
    scale(swarm, 0)
    until(lambda: refused(swarm), "every node to refuse", 10)
    assert swarm.inside("worker1", "curl", "-s", "-m", "5", f"http://[::1]:{PORT}/").code == CONNECTION_REFUSED
    scale(swarm, 5)
    until(lambda: all_answer(swarm), "every node to answer", 10)
    assert "replica" in swarm.inside("worker1", "curl", "-s", "-m", "5", f"http://localhost:{PORT}/").ok()


def test_ports_change_and_services_swap_them(swarm: Swarm) -> None:
    publish(swarm, "one", 8081, 1, "web:1")
    publish(swarm, "two", 8082, 1, "web:2")
    publish(swarm, "open", 0, 1, "-p", "9000-9009:9000-9009", "web:1")
    for name, port in (("one", 8083), ("two", 8081), ("one", 8082)):
        swarm.docker("service", "update", "-d", "--publish-rm", "80", "--publish-add", f"{port}:80", name).ok()

    def swapped() -> bool:
        try:
            answers = [(port, get(swarm.address(host), port)) for host in swarm.hosts for port in (8081, 8082)]
        except OSError:
            return False
        return {(port, text.split()[0]) for port, text in answers} == {(8081, "second"), (8082, "replica")}

    until(swapped, "each to answer at the other's port")
    until(lambda: refused(swarm, 8083), "the port in between to be closed", 10)
    ports = swarm.api().services.get("open").attrs["Endpoint"]["Ports"]
    (given,) = (port["PublishedPort"] for port in ports if port["TargetPort"] == 80)
    assert 30000 <= given <= 32767
    until(lambda: all_answer(swarm, given), "the port that was chosen to answer")
    swarm.docker("service", "update", "-d", "--publish-add", "8082:80", "two").refused("8082", "one")


def test_a_process_of_the_host_keeps_its_port(swarm: Swarm) -> None:
    serve = f"echo $$ > /run/server; exec busybox httpd -f -p {PORT}"
    inside = ["lab", "exec", "--name", swarm.lab.plan.name, "worker1", "--", "sh", "-c", serve]
    argv = [sys.executable, "-m", "swarmpy.cli.main", *inside]
    with subprocess.Popen(argv, env=swarm.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        listens = ("sh", "-c", f"grep -q :{PORT:04X} /proc/net/tcp /proc/net/tcp6")
        until(lambda: swarm.inside("worker1", *listens).code == 0, "the host's own server")
        try:
            publish(swarm, "web", PORT, 2, "web:1")
            swarm.seen("worker2", PORT, 2)
            assert not local(swarm, "worker1"), "it is the other server that answers, with 404"
            assert f"port {PORT}/tcp" in swarm.lab.log("worker1").read_text()
        finally:
            swarm.inside("worker1", "sh", "-c", "kill -9 $(cat /run/server)").ok()
