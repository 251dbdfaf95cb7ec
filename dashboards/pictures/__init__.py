"""Pictures of cells and studies."""
