"""Names for containers that got none: an adjective and a bird.

In      a source of randomness, and which names are taken.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from swarmpy.errors import InvalidArgument

__all__ = ["check_name", "pick_name"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_ADJECTIVES = """
    able agile amber ample bold brave brisk calm candid careful cheerful clear clever cosy crisp curious daring
    deft eager early earnest fair fine fleet fond frank free fresh gentle glad golden good grand happy hardy
    honest humble jolly keen kind lively loyal lucid lucky mellow merry mild modest neat nimble noble patient
    placid plucky polite prompt proud quick quiet ready robust rosy serene sharp shiny silent silver sincere
    smart smooth snug sober solid spry steady sunny swift tidy trusty upbeat vivid warm wise witty worthy zesty
"""
_BIRDS = """
    auk avocet bittern blackbird bluetit bunting bustard buzzard chiffchaff chough condor coot cormorant crane
    curlew dipper dove dunlin eagle egret eider falcon fieldfare finch fulmar gannet godwit goldcrest goose
    goshawk grebe gull harrier hawk heron hobby hoopoe ibis jackdaw jay kestrel kingfisher kite kittiwake knot
    lapwing lark linnet loon magpie martin merlin nightjar nuthatch oriole osprey ouzel owl oystercatcher
    partridge pelican penguin petrel pheasant pipit plover pochard puffin quail rail raven razorbill redstart
    robin rook ruff sanderling shrike siskin skua skylark snipe sparrow starling stilt stork swallow swan swift
    teal tern thrush turnstone wagtail warbler waxwing wheatear whimbrel widgeon woodcock woodpecker wren
    yellowhammer
"""


def pick_name(rng: random.Random, taken: Callable[[str], bool]) -> str:
    """A name that is not `taken`."""
    while True:
        name = f"{rng.choice(_ADJECTIVES.split())}_{rng.choice(_BIRDS.split())}"
        if not taken(name):
            return name
        numbered = f"{name}{rng.randrange(10_000)}"
        if not taken(numbered):
            return numbered


def check_name(name: str) -> str:
    """`name` without a leading slash; `InvalidArgument` for one that Docker would not take."""
    bare = name.removeprefix("/")
    if not _NAME.fullmatch(bare):
        raise InvalidArgument(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at least two characters"
        )
    return bare
