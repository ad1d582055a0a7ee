"""What runs in a container besides its first process: the OCI `process` object of an exec.

Owns    how an exec inherits from its container: environment, user, working directory, privileges.
Source  Docker Engine API, `POST /containers/{id}/exec`; OCI runtime-spec, "config.md", Process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarmpy.engine.bundles import shown_hostname
from swarmpy.engine.facts import identity_in_process
from swarmpy.engine.image_config import merge_env
from swarmpy.engine.parts import Parts
from swarmpy.engine.privileges import confinement
from swarmpy.engine.record import ContainerRecord
from swarmpy.engine.resources import oci_rlimits
from swarmpy.engine.spec import environment, process_capabilities
from swarmpy.runtime import ExecProcess

__all__ = ["exec_process"]


async def exec_process(
    parts: Parts,
    record: ContainerRecord,
    pid: int,
    *,
    args: Sequence[str],
    env: Sequence[str] = (),
    user: str = "",
    cwd: str = "",
    tty: bool = False,
    stdin: bool = False,
    privileged: bool = False,
    console_size: Sequence[int] = (),
) -> ExecProcess:
    """The process to run beside the init `pid` of a container; `InvalidArgument` when `user` is not known there."""
    config, host = record.config, record.host
    identity = await asyncio.to_thread(identity_in_process, pid, user or config.user, host.group_add)
    size = (console_size[0], console_size[1]) if len(console_size) == 2 and all(console_size) else None
    return ExecProcess(
        args=args,
        env=environment(merge_env(env, config.env), shown_hostname(record), identity, tty=tty),
        cwd=cwd or config.working_dir or "/",
        uid=identity.uid,
        gid=identity.gid,
        additional_gids=identity.groups,
        terminal=tty,
        stdin=stdin,
        console_size=size if tty else None,
        capabilities=process_capabilities(record, parts.capabilities, identity, privileged=privileged),
        no_new_privileges=confinement(host.security_opt).no_new_privileges,
        rlimits=oci_rlimits(host),
        oom_score_adj=host.oom_score_adj,
    )
