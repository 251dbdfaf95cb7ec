"""One search: its options, its epochs, its reports."""
