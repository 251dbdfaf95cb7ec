"""The search space: genotypes, the published cells, codes of genotypes, and the plan of a stack of cells."""
