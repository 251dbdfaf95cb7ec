"""What a child costs: counts, the penalty over them, latency, memory, and limits."""
