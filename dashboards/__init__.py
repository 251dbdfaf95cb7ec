"""Pictures of cells and studies, read only."""
