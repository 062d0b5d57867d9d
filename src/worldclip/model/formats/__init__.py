"""Model folders of three libraries: each module reads them, writes them, and compares what it wrote."""
