"""Images: content on disk, what it is called, and root file systems made of it.

`ImageStore` is the door. Law: nothing enters unless its bytes hash to its name, and nothing in a layer reaches outside
the layer's own directory. `docs/design/image.md` has the rest.
"""

from swarmpy.image.catalog import Image, Removed
from swarmpy.image.history import HistoryEntry
from swarmpy.image.progress import Progress
from swarmpy.image.reference import DEFAULT_DOMAIN, Reference, parse_reference
from swarmpy.image.registry import RegistryAuth, RegistryConfig
from swarmpy.image.snapshots import RootFS
from swarmpy.image.store import ImageStore, Loaded
from swarmpy.image.unpack import UnpackLimits

__all__ = [
    "DEFAULT_DOMAIN",
    "HistoryEntry",
    "Image",
    "ImageStore",
    "Loaded",
    "Progress",
    "Reference",
    "RegistryAuth",
    "RegistryConfig",
    "Removed",
    "RootFS",
    "UnpackLimits",
    "parse_reference",
]
