"""Files that a run writes: where they lie, and how they survive a kill."""
