"""Build a release: all artefacts of one commit, by one command (`./run release`)."""
