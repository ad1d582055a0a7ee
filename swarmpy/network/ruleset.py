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

__all__ = ["Chain", "Hook", "Key", "NamedSet", "Rule", "Ruleset", "Value", "change", "comments", "observed", "rule"]

Key = tuple[str | int, ...]
Value = str | int | None
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
class NamedSet:
    """A set, or with `data_type` a map from each key to a value. Lookup cost does not grow with the elements.

    No map holds verdicts: for each new verdict the kernel walks all chains that can be reached, through every element.
    """

    key_types: tuple[str, ...]
    data_type: str = ""
    elements: Mapping[Key, Value] = field(default_factory=dict)  # of a set: None


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A whole table, or the same part of two tables: all chains and sets, and the elements that are of interest."""

    table: str
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, NamedSet] = field(default_factory=dict)


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


def comments(ruleset: Ruleset) -> dict[str, tuple[str, ...]]:
    """The comment of each rule, by chain: what the kernel tells of a table at little cost."""
    return {name: tuple(item.digest for item in chain.rules) for name, chain in ruleset.chains.items() if chain.rules}


def observed(table: str, listed: Iterable[Mapping[str, Any]]) -> Ruleset:
    """Read a table back from what `list table` printed."""
    chains: dict[str, Chain] = {}
    rules: dict[str, list[Rule]] = {}
    sets: dict[str, NamedSet] = {}
    for item in listed:
        if "chain" in item:
            chain = item["chain"]
            hook = Hook(chain["type"], chain["hook"], chain["prio"]) if "hook" in chain else None
            chains[chain["name"]] = Chain(hook=hook)
        elif "rule" in item:
            rules.setdefault(item["rule"]["chain"], []).append(Rule(item["rule"].get("comment", "")))
        elif "map" in item:
            sets[item["map"]["name"]] = _observed_map(item["map"])
        elif "set" in item:
            keys = (_observed_key(key) for key in item["set"].get("elem", ()))
            sets[item["set"]["name"]] = NamedSet(_types(item["set"]), "", dict.fromkeys(keys))
    read = {name: Chain(tuple(rules.get(name, ())), chain.hook) for name, chain in chains.items()}
    return Ruleset(table, read, sets)


def _types(listed: Mapping[str, Any]) -> tuple[str, ...]:
    types = listed["type"]
    return tuple(types) if isinstance(types, list) else (types,)


def _observed_key(key: object) -> Key:
    return tuple(key["concat"]) if isinstance(key, dict) and "concat" in key else (str(key),)


def _observed_map(listed: Mapping[str, Any]) -> NamedSet:
    """A map that somebody made of anything but addresses and ports reads as one that differs from every wish."""
    elements: dict[Key, Value] = {
        _observed_key(key): value if isinstance(value, str | int) else str(value)
        for key, value in listed.get("elem", ())
    }
    return NamedSet(_types(listed), str(listed["map"]), elements)


def _same_frame(old: Ruleset, new: Ruleset) -> bool:
    """Whether base chains and types of sets, which nftables cannot change in place, may stay as they are."""
    hooks = all(old.chains[name].hook == chain.hook for name, chain in new.chains.items() if name in old.chains)
    types = all(_type(old.sets[name]) == _type(wanted) for name, wanted in new.sets.items() if name in old.sets)
    return hooks and types


def _type(named: NamedSet) -> tuple[tuple[str, ...], str]:
    return named.key_types, named.data_type


def _changes(old: Ruleset, new: Ruleset) -> list[Command]:
    """In an order the kernel accepts: what is referred to exists before its reference, and outlives it."""
    table = new.table
    commands: list[Command] = []
    for name, chain in new.chains.items():
        if name not in old.chains:
            commands.append(_add_chain(table, name, chain))
    for name, wanted in new.sets.items():
        if name not in old.sets:
            commands.append(_add_set(table, name, wanted))
    for name, wanted in new.sets.items():
        commands.extend(_element_changes(table, name, old.sets.get(name, NamedSet(())).elements, wanted))
    for name, chain in new.chains.items():
        before = old.chains.get(name, Chain())
        if before.rules == chain.rules:
            continue
        if before.rules:
            commands.append(_flush(table, name))
        commands.extend(_add_rule(table, name, item) for item in chain.rules)
    gone = [name for name in old.chains if name not in new.chains]
    commands.extend(_flush(table, name) for name in gone)
    for name, had in old.sets.items():
        if name not in new.sets:
            commands.append(_command("delete", _kind(had), table=table, name=name))
    commands.extend(_command("delete", "chain", table=table, name=name) for name in gone)
    return commands


def _element_changes(table: str, name: str, old: Mapping[Key, Value], wanted: NamedSet) -> list[Command]:
    new = wanted.elements
    gone = [key for key, value in old.items() if key not in new or new[key] != value]
    came = [(key, value) for key, value in new.items() if key not in old or old[key] != value]
    commands: list[Command] = []
    if gone:
        commands.append(_command("delete", "element", table=table, name=name, elem=[_element_key(key) for key in gone]))
    if came:
        elements = [[_element_key(key), value] if wanted.data_type else _element_key(key) for key, value in came]
        commands.append(_command("add", "element", table=table, name=name, elem=elements))
    return commands


def _element_key(key: Key) -> object:
    return {"concat": list(key)} if len(key) > 1 else key[0]


def _kind(named: NamedSet) -> str:
    return "map" if named.data_type else "set"


def _add_set(table: str, name: str, named: NamedSet) -> Command:
    data = {"map": named.data_type} if named.data_type else {}
    return _command("add", _kind(named), table=table, name=name, type=list(named.key_types), **data)


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


def _flush(table: str, chain: str) -> Command:
    return {"flush": {"chain": {"family": FAMILY, "table": table, "name": chain}}}


def _command(verb: str, noun: str, **fields: Any) -> Command:
    return {verb: {noun: {"family": FAMILY, **fields}}}
