"""The pages: each turns records into a view, a pure function of store, address and theme."""
