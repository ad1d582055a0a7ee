"""An nftables table as a value, and the smallest change from one to another. Pure.

A rule carries the digest of its own text as its comment. What the kernel holds can thus be compared with what is
wanted without depending on how a version of libnftables prints an expression back: a rule that somebody removed,
replaced or added shows as a different list of digests.

Source  libnftables-json(5).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swarmpy.network.nftables import Command

__all__ = ["Chain", "Hook", "Rule", "Ruleset", "VerdictMap", "change", "observed", "rule"]

Key = tuple[str | int, ...]
FAMILY = "ip"


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain is entered: chain type, hook, priority (nft(8), Chains)."""

    type: str
    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Two rules are equal when their digests are; `expressions` is empty when read from the kernel."""

    digest: str
    expressions: str = field(default="[]", compare=False)


def rule(*expressions: Command) -> Rule:
    text = json.dumps(expressions, sort_keys=True)
    return Rule("sw:" + hashlib.sha256(text.encode()).hexdigest()[:16], text)


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """Key to the chain that is gone to. Lookup cost does not grow with the number of elements."""

    key_types: tuple[str, ...]
    elements: Mapping[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A whole table."""

    table: str
    chains: Mapping[str, Chain] = field(default_factory=dict)
    maps: Mapping[str, VerdictMap] = field(default_factory=dict)


def change(old: Ruleset | None, new: Ruleset | None) -> list[Command]:
    """The commands, one transaction, that turn `old` into `new`; None is a table that does not exist."""
    if new is None:
        return [] if old is None else [_command("delete", "table", name=old.table)]
    if old is None:
        return [_command("add", "table", name=new.table), *_changes(Ruleset(new.table), new)]
    if not _same_frame(old, new):
        return [
            _command("delete", "table", name=old.table),
            _command("add", "table", name=new.table),
            *_changes(Ruleset(new.table), new),
        ]
    return _changes(old, new)


def observed(table: str, listed: Iterable[Mapping[str, Any]]) -> Ruleset:
    """Read a table back from what `list table` printed."""
    chains: dict[str, Chain] = {}
    rules: dict[str, list[Rule]] = {}
    maps: dict[str, VerdictMap] = {}
    for item in listed:
        if "chain" in item:
            chain = item["chain"]
            hook = Hook(chain["type"], chain["hook"], chain["prio"]) if "hook" in chain else None
            chains[chain["name"]] = Chain(hook=hook)
        elif "rule" in item:
            rules.setdefault(item["rule"]["chain"], []).append(Rule(item["rule"].get("comment", "")))
        elif "map" in item:
            maps[item["map"]["name"]] = _observed_map(item["map"])
    read = {name: Chain(tuple(rules.get(name, ())), chain.hook) for name, chain in chains.items()}
    return Ruleset(table, read, maps)


def _observed_map(listed: Mapping[str, Any]) -> VerdictMap:
    types = listed["type"] if isinstance(listed["type"], list) else [listed["type"]]
    elements: dict[Key, str] = {}
    for key, verdict in listed.get("elem", ()):
        parts = key["concat"] if isinstance(key, dict) else [key]
        target = verdict.get("goto", {}).get("target", "") if isinstance(verdict, dict) else ""
        elements[tuple(parts)] = target
    return VerdictMap(tuple(types), elements)


def _same_frame(old: Ruleset, new: Ruleset) -> bool:
    """Whether base chains and map types, which nftables cannot change in place, may stay as they are."""
    hooks = all(old.chains[name].hook == chain.hook for name, chain in new.chains.items() if name in old.chains)
    types = all(old.maps[name].key_types == wanted.key_types for name, wanted in new.maps.items() if name in old.maps)
    return hooks and types


def _changes(old: Ruleset, new: Ruleset) -> list[Command]:
    """In an order the kernel accepts: what is referred to exists before its reference, and outlives it."""
    table = new.table
    commands: list[Command] = []
    for name, chain in new.chains.items():
        if name not in old.chains:
            commands.append(_add_chain(table, name, chain))
    for name, wanted in new.maps.items():
        if name not in old.maps:
            commands.append(_command("add", "map", table=table, name=name, type=list(wanted.key_types), map="verdict"))
    for name, wanted in new.maps.items():
        had = old.maps[name].elements if name in old.maps else {}
        commands.extend(_element_changes(table, name, had, wanted.elements))
    for name, chain in new.chains.items():
        before = old.chains.get(name, Chain())
        if before.rules == chain.rules:
            continue
        if before.rules:
            commands.append({"flush": {"chain": {"family": FAMILY, "table": table, "name": name}}})
        commands.extend(_add_rule(table, name, item) for item in chain.rules)
    gone = [name for name in old.chains if name not in new.chains]
    commands.extend({"flush": {"chain": {"family": FAMILY, "table": table, "name": name}}} for name in gone)
    commands.extend(_command("delete", "map", table=table, name=name) for name in old.maps if name not in new.maps)
    commands.extend(_command("delete", "chain", table=table, name=name) for name in gone)
    return commands


def _element_changes(table: str, name: str, old: Mapping[Key, str], new: Mapping[Key, str]) -> list[Command]:
    gone = [(key, target) for key, target in old.items() if new.get(key) != target]
    came = [(key, target) for key, target in new.items() if old.get(key) != target]
    commands: list[Command] = []
    if gone:
        commands.append(_command("delete", "element", table=table, name=name, elem=[_element_key(k) for k, _ in gone]))
    if came:
        elements = [[_element_key(key), {"goto": {"target": target}}] for key, target in came]
        commands.append(_command("add", "element", table=table, name=name, elem=elements))
    return commands


def _element_key(key: Key) -> object:
    return {"concat": list(key)} if len(key) > 1 else key[0]


def _add_chain(table: str, name: str, chain: Chain) -> Command:
    if chain.hook is None:
        return _command("add", "chain", table=table, name=name)
    hook = chain.hook
    return _command(
        "add", "chain", table=table, name=name, type=hook.type, hook=hook.name, prio=hook.priority, policy="accept"
    )


def _add_rule(table: str, chain: str, item: Rule) -> Command:
    expressions = json.loads(item.expressions)
    return _command("add", "rule", table=table, chain=chain, expr=expressions, comment=item.digest)


def _command(verb: str, noun: str, **fields: Any) -> Command:
    return {verb: {noun: {"family": FAMILY, **fields}}}
