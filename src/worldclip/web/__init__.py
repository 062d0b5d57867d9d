"""Static pages and the small server."""
