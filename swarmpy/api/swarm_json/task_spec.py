"""TaskSpec <-> JSON.

Source  Docker Engine API: TaskSpec, Mount, HealthConfig, Resources.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from swarmpy.api.fields import Fields
from swarmpy.api.swarm_json.values import JSON, compact
from swarmpy.errors import InvalidArgument, NotSupported
from swarmpy.rpc.types_pb2 import (
    ContainerSpec,
    DNSConfig,
    Healthcheck,
    LogDriver,
    Mount,
    Placement,
    PlacementPreference,
    Platform,
    Privileges,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    TaskSpec,
    Ulimit,
)

__all__ = ["task_spec_from_json", "task_spec_to_json"]

CONDITIONS = {
    "any": RestartPolicy.ANY, "on-failure": RestartPolicy.ON_FAILURE, "none": RestartPolicy.NONE,
}
CONSISTENCIES = ("default", "consistent", "cached", "delegated")     # of Docker on a Mac; the same everywhere else
CONDITION_NAMES = {value: name for name, value in CONDITIONS.items()}


def task_spec_from_json(fields: Fields) -> TaskSpec:
    """ServiceSpec.TaskTemplate. Raises InvalidArgument and NotSupported."""
    if fields.text("Runtime") not in ("", "container"):
        raise NotSupported(f"{fields.path('Runtime')}: only 'container' is supported")
    task = TaskSpec(
        container=container_from_json(fields.inner("ContainerSpec")),
        force_update=fields.integer("ForceUpdate", least=0),
    )
    if fields.has("Resources"):
        task.resources.CopyFrom(resources_from_json(fields.inner("Resources")))
    if fields.has("RestartPolicy"):
        task.restart.CopyFrom(restart_from_json(fields.inner("RestartPolicy")))
    if fields.has("Placement"):
        task.placement.CopyFrom(placement_from_json(fields.inner("Placement")))
    if fields.has("LogDriver"):
        task.log_driver.CopyFrom(driver_from_json(fields.inner("LogDriver")))
    for network in fields.each("Networks"):
        task.networks.add(
            target=network.text("Target"),
            aliases=network.texts("Aliases"),
            driver_options=network.mapping("DriverOpts"),
        )
    return task


def container_from_json(fields: Fields) -> ContainerSpec:
    container = ContainerSpec(
        image=fields.text("Image"),
        labels=fields.mapping("Labels"),
        command=fields.texts("Command"),
        args=fields.texts("Args"),
        hostname=fields.text("Hostname"),
        env=fields.texts("Env"),
        dir=fields.text("Dir"),
        user=fields.text("User"),
        groups=fields.texts("Groups"),
        tty=fields.flag("TTY"),
        open_stdin=fields.flag("OpenStdin"),
        read_only=fields.flag("ReadOnly"),
        mounts=[mount_from_json(mount) for mount in fields.each("Mounts")],
        stop_signal=fields.text("StopSignal"),
        hosts=fields.texts("Hosts"),
        sysctls=fields.mapping("Sysctls"),
        capability_add=fields.texts("CapabilityAdd"),
        capability_drop=fields.texts("CapabilityDrop"),
        oom_score_adj=fields.integer("OomScoreAdj", least=-1000, most=1000),
        isolation="" if fields.text("Isolation") == "default" else fields.text("Isolation"),   # reads back as stored
        ulimits=[
            Ulimit(name=item.text("Name"), soft=item.integer("Soft"), hard=item.integer("Hard"))
            for item in fields.each("Ulimits")
        ],
    )
    if fields.has("StopGracePeriod"):
        container.stop_grace_period_ns = fields.integer("StopGracePeriod", least=0)
    if fields.has("Init"):
        container.init = fields.flag("Init")
    for name in ("Healthcheck", "HealthCheck"):  # as clients write it, and as the specification does
        if fields.has(name):
            container.healthcheck.CopyFrom(healthcheck_from_json(fields.inner(name)))
    if fields.has("DNSConfig"):
        dns = fields.inner("DNSConfig")
        container.dns.CopyFrom(
            DNSConfig(
                nameservers=dns.texts("Nameservers"), search=dns.texts("Search"), options=dns.texts("Options")
            )
        )
    if fields.has("Privileges"):
        container.privileges.CopyFrom(privileges_from_json(fields.inner("Privileges")))
    return container


def privileges_from_json(fields: Fields) -> Privileges:
    fields.inner("AppArmor").choice("Mode", {"default": "", "disabled": ""}, "")     # there is none in either case
    seccomp = fields.inner("Seccomp")
    mode = seccomp.choice("Mode", {name: name for name in ("default", "unconfined", "custom")}, "")
    profile = bytes_from_json(seccomp, "Profile")
    if (mode == "custom") != bool(profile):
        raise InvalidArgument(f"{seccomp.path('Profile')}: goes with the mode custom, and only with that")
    return Privileges(
        no_new_privileges=fields.flag("NoNewPrivileges"), seccomp_mode=mode, seccomp_profile=profile
    )


def bytes_from_json(fields: Fields, name: str) -> bytes:
    """Bytes, which Go writes in base64."""
    try:
        return base64.b64decode(fields.text(name), validate=True)
    except ValueError as error:
        raise InvalidArgument(f"{fields.path(name)}: is not base64: {error}") from error


def mount_from_json(fields: Fields) -> Mount:
    kinds = {name: name for name in ("bind", "volume", "tmpfs", "npipe", "cluster", "image")}
    kind = fields.choice("Type", kinds, "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        raise NotSupported(f"{fields.path('Type')}: mounts of type {kind} are not supported yet")
    bind, volume, tmpfs = fields.inner("BindOptions"), fields.inner("VolumeOptions"), fields.inner("TmpfsOptions")
    mount = Mount(
        type=kind,
        source=fields.text("Source"),
        target=fields.text("Target"),
        read_only=fields.flag("ReadOnly"),
        consistency=fields.choice("Consistency", {name: name for name in CONSISTENCIES}, ""),
        bind_propagation=bind.text("Propagation"),
        bind_non_recursive=bind.flag("NonRecursive"),
        bind_create_mountpoint=bind.flag("CreateMountpoint"),
        bind_read_only_non_recursive=bind.flag("ReadOnlyNonRecursive"),
        bind_read_only_force_recursive=bind.flag("ReadOnlyForceRecursive"),
        tmpfs_size_bytes=tmpfs.integer("SizeBytes", least=0),
        tmpfs_mode=tmpfs.integer("Mode", least=0, most=0o7777),
        volume_no_copy=volume.flag("NoCopy"),
        volume_labels=volume.mapping("Labels"),
        volume_subpath=volume.text("Subpath"),
    )
    if volume.has("DriverConfig"):
        mount.volume_driver.CopyFrom(driver_from_json(volume.inner("DriverConfig")))
    return mount


def healthcheck_from_json(fields: Fields) -> Healthcheck:
    return Healthcheck(
        test=fields.texts("Test"),
        interval_ns=fields.integer("Interval"),
        timeout_ns=fields.integer("Timeout"),
        start_period_ns=fields.integer("StartPeriod"),
        start_interval_ns=fields.integer("StartInterval"),
        retries=fields.integer("Retries", most=2**31 - 1),
    )


def driver_from_json(fields: Fields) -> LogDriver:
    return LogDriver(name=fields.text("Name"), options=fields.mapping("Options"))


def resources_from_json(fields: Fields) -> ResourceRequirements:
    def amounts(inner: Fields) -> Resources:
        return Resources(nano_cpus=inner.integer("NanoCPUs"), memory_bytes=inner.integer("MemoryBytes"))

    resources = ResourceRequirements()
    if fields.has("Limits"):
        resources.limits.CopyFrom(amounts(fields.inner("Limits")))
        resources.limits.pids = fields.inner("Limits").integer("Pids")
    if fields.has("Reservations"):
        resources.reservations.CopyFrom(amounts(fields.inner("Reservations")))
    return resources


def restart_from_json(fields: Fields) -> RestartPolicy:
    restart = RestartPolicy(condition=fields.choice("Condition", CONDITIONS, RestartPolicy.ANY))
    if fields.has("Delay"):
        restart.delay_ns = fields.integer("Delay", least=0)
    if fields.has("MaxAttempts"):
        restart.max_attempts = fields.integer("MaxAttempts", least=0)
    if fields.has("Window"):
        restart.window_ns = fields.integer("Window", least=0)
    return restart


def placement_from_json(fields: Fields) -> Placement:
    return Placement(
        constraints=fields.texts("Constraints"),
        preferences=[
            PlacementPreference(spread_descriptor=item.inner("Spread").text("SpreadDescriptor"))
            for item in fields.each("Preferences")
        ],
        max_replicas=fields.integer("MaxReplicas", least=0),
        platforms=[
            Platform(architecture=item.text("Architecture"), os=item.text("OS")) for item in fields.each("Platforms")
        ],
    )


def task_spec_to_json(task: TaskSpec) -> JSON:
    """TaskSpec as the API shows it."""
    result: JSON = {"ContainerSpec": container_to_json(task.container)}
    if task.HasField("resources"):
        result["Resources"] = resources_to_json(task.resources)
    if task.HasField("restart"):
        result["RestartPolicy"] = restart_to_json(task.restart)
    if task.HasField("placement"):
        result["Placement"] = placement_to_json(task.placement)
    if task.networks:
        result["Networks"] = [
            compact({"Target": item.target, "Aliases": list(item.aliases), "DriverOpts": dict(item.driver_options)})
            for item in task.networks
        ]
    if task.HasField("log_driver"):
        result["LogDriver"] = driver_to_json(task.log_driver)
    return result | {"ForceUpdate": task.force_update, "Runtime": "container"}


def container_to_json(container: ContainerSpec) -> JSON:
    result = compact(
        {
            "Image": container.image,
            "Labels": dict(container.labels),
            "Command": list(container.command),
            "Args": list(container.args),
            "Hostname": container.hostname,
            "Env": list(container.env),
            "Dir": container.dir,
            "User": container.user,
            "Groups": list(container.groups),
            "TTY": container.tty,
            "OpenStdin": container.open_stdin,
            "ReadOnly": container.read_only,
            "Mounts": [mount_to_json(mount) for mount in container.mounts],
            "StopSignal": container.stop_signal,
            "Hosts": list(container.hosts),
            "Sysctls": dict(container.sysctls),
            "CapabilityAdd": list(container.capability_add),
            "CapabilityDrop": list(container.capability_drop),
            "OomScoreAdj": container.oom_score_adj,
            "Ulimits": [{"Name": item.name, "Soft": item.soft, "Hard": item.hard} for item in container.ulimits],
        }
    )
    if container.HasField("stop_grace_period_ns"):
        result["StopGracePeriod"] = container.stop_grace_period_ns
    if container.HasField("init"):
        result["Init"] = container.init
    if container.HasField("healthcheck"):
        check = container.healthcheck
        result["Healthcheck"] = compact(
            {
                "Test": list(check.test),
                "Interval": check.interval_ns,
                "Timeout": check.timeout_ns,
                "StartPeriod": check.start_period_ns,
                "StartInterval": check.start_interval_ns,
                "Retries": check.retries,
            }
        )
    if container.HasField("dns"):
        dns = container.dns
        result["DNSConfig"] = compact(
            {"Nameservers": list(dns.nameservers), "Search": list(dns.search), "Options": list(dns.options)}
        )
    if container.HasField("privileges"):
        result["Privileges"] = privileges_to_json(container.privileges)
    return result | {"Isolation": container.isolation or "default"}


def privileges_to_json(privileges: Privileges) -> JSON:
    result: JSON = {"CredentialSpec": None, "SELinuxContext": None, "NoNewPrivileges": privileges.no_new_privileges}
    if privileges.seccomp_mode:
        result["Seccomp"] = compact(
            {
                "Mode": privileges.seccomp_mode,
                "Profile": base64.b64encode(privileges.seccomp_profile).decode(),
            }
        )
    return result


def mount_to_json(mount: Mount) -> JSON:
    volume = compact(
        {"NoCopy": mount.volume_no_copy, "Labels": dict(mount.volume_labels), "Subpath": mount.volume_subpath}
    )
    if mount.HasField("volume_driver"):
        volume["DriverConfig"] = driver_to_json(mount.volume_driver)
    return compact(
        {
            "Type": mount.type,
            "Source": mount.source,
            "Target": mount.target,
            "ReadOnly": mount.read_only,
            "Consistency": mount.consistency,
            "BindOptions": compact(
                {
                    "Propagation": mount.bind_propagation,
                    "NonRecursive": mount.bind_non_recursive,
                    "CreateMountpoint": mount.bind_create_mountpoint,
                    "ReadOnlyNonRecursive": mount.bind_read_only_non_recursive,
                    "ReadOnlyForceRecursive": mount.bind_read_only_force_recursive,
                }
            ),
            "VolumeOptions": volume,
            "TmpfsOptions": compact({"SizeBytes": mount.tmpfs_size_bytes, "Mode": mount.tmpfs_mode}),
        }
    )


def driver_to_json(driver: LogDriver) -> JSON:
    return compact({"Name": driver.name, "Options": dict(driver.options)})


def resources_to_json(resources: ResourceRequirements) -> JSON:
    def amounts(inner: Resources) -> JSON:
        return compact({"NanoCPUs": inner.nano_cpus, "MemoryBytes": inner.memory_bytes, "Pids": inner.pids})

    result: JSON = {}
    if resources.HasField("limits"):
        result["Limits"] = amounts(resources.limits)
    if resources.HasField("reservations"):
        result["Reservations"] = amounts(resources.reservations)
    return result


def restart_to_json(restart: RestartPolicy) -> JSON:
    result: JSON = {"Condition": CONDITION_NAMES[restart.condition]}
    if restart.HasField("delay_ns"):
        result["Delay"] = restart.delay_ns
    result["MaxAttempts"] = restart.max_attempts
    if restart.HasField("window_ns"):
        result["Window"] = restart.window_ns
    return result


def placement_to_json(placement: Placement) -> JSON:
    return compact(
        {
            "Constraints": list(placement.constraints),
            "Preferences": [
                {"Spread": {"SpreadDescriptor": item.spread_descriptor}} for item in placement.preferences
            ],
            "MaxReplicas": placement.max_replicas,
            "Platforms": platforms_to_json(placement.platforms),
        }
    )


def platforms_to_json(platforms: Iterable[Platform]) -> list[JSON]:
    return [compact({"Architecture": item.architecture, "OS": item.os}) for item in platforms]
