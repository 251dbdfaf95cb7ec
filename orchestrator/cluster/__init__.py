"""The Ray cluster: the way in, checks before a launch, and how many searches share a node."""
