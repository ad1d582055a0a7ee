"""One virtual machine: QEMU with the image's kernel, on a disk that keeps only what differs from the image.

The processor is emulated, some twenty times slower than the real one: whether KVM works is not to be known before it
hangs. VM_ACCELERATOR=kvm takes it. Deadlines here are those of an emulated machine on a busy one.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

from tests.vm.agent import Agent, Outcome, Silent
from tests.vm.site import NETWORK, Site

__all__ = ["Image", "Machine"]

ACCELERATOR = os.environ.get("VM_ACCELERATOR", "tcg")
BOOT_S = 900.0
COMMAND_S = 600.0
ANSWER_S = 60.0
POLL_S = 0.25
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Image:
    """What deploy/vm/build.sh made."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def disk(self) -> Path:
        return self.directory / "root.img"


class Machine:
    """`number` gives the address; `directory` is the machine's own. It is off at first."""

    def __init__(
        self, site: Site, image: Image, directory: Path, name: str, number: int, *,
        memory_mib: int = 768, processors: int = 1, seed: bytes = b"", kernel_options: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self._site, self._image, self._directory = site, image, directory
        self._mac = f"52:54:00:00:00:{number:02x}"
        self._memory_mib, self._processors, self._kernel_options = memory_mib, processors, kernel_options
        self._qemu: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        (directory / "seed.tar").write_bytes(seed)
        (directory / "console").touch()
        backing = ["-b", str(image.disk), "-F", "raw"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(self._disk)], check=True)
        self._agent = Agent(directory / "agent")

    @property
    def _disk(self) -> Path:
        return self._directory / "disk.qcow2"

    @property
    def console(self) -> str:
        """What the kernel and systemd said since the machine was first switched on."""
        return (self._directory / "console").read_text(errors="replace")

    # ----------------------------------------------------------------------------------------------------- power

    def switch_on(self) -> None:
        """It boots; `wait_up` waits for that."""
        self._site.plug(self.name)
        with (self._directory / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(
                self._site.command(*self._command()), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def lose_power(self) -> None:
        """Off, at once; what is off stays so."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None

    def remove(self) -> None:
        """Off, and its disk is gone; what it said on its console stays."""
        self.lose_power()
        self._disk.unlink(missing_ok=True)

    def reboot(self) -> None:
        """It goes down as `systemctl reboot` does and is up again."""
        before = self.run(BOOT_ID).ok()
        deadline_s = time.monotonic() + BOOT_S
        self._agent.start("systemctl reboot")
        while not self._is_another_boot(before):
            self._still_on(deadline_s)

    def _is_another_boot(self, than: str) -> bool:
        try:
            return self._agent.answers() and self._agent.run(BOOT_ID, ANSWER_S).ok() != than
        except Silent:
            return False

    def wait_up(self) -> None:
        """Commands can be run."""
        deadline_s = time.monotonic() + BOOT_S
        while not self._agent.answers():
            self._still_on(deadline_s)

    def _still_on(self, deadline_s: float) -> None:
        assert self._qemu is not None
        log = self._directory / "qemu.log"
        assert self._qemu.poll() is None, f"QEMU of {self.name} has ended: {log.read_text()}"
        assert "Kernel panic" not in self.console, self.console[-3000:]
        assert time.monotonic() < deadline_s, f"{self.name} is not up after {BOOT_S:g} s:\n{self.console[-3000:]}"
        time.sleep(POLL_S)

    def _command(self) -> list[str]:
        words = [
            "console=ttyS0", "quiet", "mitigations=off", "no_timer_check", "nowatchdog", "random.trust_cpu=on",
            "net.ifnames=0", f"systemd.hostname={self.name}",
            f"systemd.machine_id={uuid5(NAMESPACE_DNS, self.name).hex}", f"vm.address={self.address}/24",
            self._kernel_options,
        ]  # fmt: skip
        return [
            "qemu-system-x86_64", "-machine", f"q35,accel={ACCELERATOR}", "-cpu", "max", "-smp", str(self._processors),
            "-m", str(self._memory_mib), "-display", "none", "-nodefaults", "-no-user-config",
            "-chardev", f"file,id=console,path={self._directory}/console,append=on", "-serial", "chardev:console",
            "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", " ".join(words),
            "-drive", f"if=virtio,format=qcow2,cache=unsafe,file={self._disk}",
            "-netdev", f"tap,id=net,ifname={self.name},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,mac={self._mac},romfile=",
            "-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            "-chardev", f"socket,id=agent,path={self._directory}/agent,server=on,wait=off",
            "-device", "virtio-rng-pci", "-fw_cfg", f"name=opt/seed.tar,file={self._directory}/seed.tar",
        ]  # fmt: skip

    # -------------------------------------------------------------------------------------------------- commands

    def run(self, command: str, timeout_s: float = COMMAND_S) -> Outcome:
        """`sh -c command` as root in the machine."""
        return self._agent.run(command, timeout_s)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = COMMAND_S) -> None:
        """`condition` holds."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, f"{self.name}: after {timeout_s:g} s still waiting for {what}"
            time.sleep(POLL_S)
