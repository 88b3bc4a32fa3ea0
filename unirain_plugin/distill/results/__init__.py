"""What comes out: manifest, votes, meta-info files, statistics, report."""
