"""Private interfaces of other packages, one file each; pyproject.toml bounds the releases that have them."""
