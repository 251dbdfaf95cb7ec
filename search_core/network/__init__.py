"""Networks: primitives, the blocks around them, the supernet, and the child of a genotype."""
