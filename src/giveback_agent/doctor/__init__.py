"""What a guest lacks, with evidence and remedy."""
