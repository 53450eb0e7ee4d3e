"""What tells a healthy run from a collapsing one while it trains."""
