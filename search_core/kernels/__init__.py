"""The supernet's own differentiable operations: depthwise convolutions, pools and products with folded batch norm."""
