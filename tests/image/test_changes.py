"""`--change` takes the Dockerfile instructions that touch configuration."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.image.changes import apply_changes

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        (['CMD ["/bin/httpd", "-f"]'], {"Cmd": ["/bin/httpd", "-f"]}),
        (["CMD httpd -f"], {"Cmd": ["/bin/sh", "-c", "httpd -f"]}),
        (["CMD [ -f /ready ]"], {"Cmd": ["/bin/sh", "-c", "[ -f /ready ]"]}),
        (["cmd []"], {"Cmd": []}),
        (['ENTRYPOINT ["/init"]', "CMD a"], {"Entrypoint": ["/init"], "Cmd": ["/bin/sh", "-c", "a"]}),
        (["ENV A=1 B='x $A' C=\"$A y\""], {"Env": ["A=1", "B=x $A", "C= y"]}),
        (["ENV A=1", "ENV B=$A/${A}x", "ENV A=2"], {"Env": ["A=2", "B=1/1x"]}),
        (["ENV A one two"], {"Env": ["A=one two"]}),
        (["ENV A=a\\ b D=\\$A"], {"Env": ["A=a b", "D=$A"]}),
        (["ENV B=${A:-none} C=${A:+some}"], {"Env": ["B=none", "C="]}),
        (["EXPOSE 80 53/udp"], {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        (["EXPOSE 8000-8002/tcp"], {"ExposedPorts": {"8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}}}),
        (["ENV P=90", "EXPOSE $P"], {"Env": ["P=90"], "ExposedPorts": {"90/tcp": {}}}),
        (['LABEL a=1 b="two words"', "LABEL a=3"], {"Labels": {"a": "3", "b": "two words"}}),
        (["ONBUILD RUN make"], {"OnBuild": ["RUN make"]}),
        (["USER 1000:1000"], {"User": "1000:1000"}),
        (["VOLUME /data /logs"], {"Volumes": {"/data": {}, "/logs": {}}}),
        (['VOLUME ["/data"]'], {"Volumes": {"/data": {}}}),
        (["WORKDIR /a", "WORKDIR b/../c"], {"WorkingDir": "/a/c"}),
        (["STOPSIGNAL SIGUSR1"], {"StopSignal": "SIGUSR1"}),
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
        (
            ["HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD curl -f localhost"],
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl -f localhost"],
                    "Interval": 90 * SECOND,
                    "Timeout": SECOND // 2,
                    "Retries": 3,
                }
            },
        ),
        (['HEALTHCHECK CMD ["/check"]'], {"Healthcheck": {"Test": ["CMD", "/check"]}}),
    ],
)
def test_instructions(changes: list[str], config: dict[str, Any]) -> None:
    assert apply_changes({}, changes) == config


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("RUN make", "'RUN' is not one of"),
        ("CMD", "needs an argument"),
        ("CMD [1, 2]", "list of strings"),
        ("ENV A", "NAME=value"),
        ("ENV A=1 B", "NAME=value"),
        ("ENV A='open", "not closed"),
        ("ENV A=${B", "variable"),
        ("ENV A=${B:?no}", "only"),
        ("EXPOSE 70000", "not a port"),
        ("EXPOSE http", "not a port"),
        ("ONBUILD FROM x", "cannot be triggered"),
        ("USER a b", "exactly one"),
        ("HEALTHCHECK --often CMD x", "is not one of"),
        ("HEALTHCHECK --interval=soon CMD x", "not a duration"),
        ("HEALTHCHECK --interval=10us CMD x", "below one millisecond"),
        ("HEALTHCHECK --retries=-1 CMD x", "whole number"),
        ("HEALTHCHECK run", "NONE"),
    ],
)
def test_refusals_name_the_change(change: str, word: str) -> None:
    with pytest.raises(InvalidArgument, match=word) as caught:
        apply_changes({}, [change])
    assert repr(change) in str(caught.value)


def test_the_given_configuration_is_not_changed() -> None:
    before = {"Env": ["A=1"], "Labels": {"a": "1"}}
    assert apply_changes(before, ["LABEL b=2", "ENV B=2"]) == {"Env": ["A=1", "B=2"], "Labels": {"a": "1", "b": "2"}}
    assert before == {"Env": ["A=1"], "Labels": {"a": "1"}}
