"""One node: puts the rooms together and owns their life."""
