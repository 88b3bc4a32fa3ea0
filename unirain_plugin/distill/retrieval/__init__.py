"""The three-level retrieval cascade (paper §2)."""
