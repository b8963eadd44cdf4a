"""giveback-agent: runs in the guest, standard library only, Python >= 3.9."""
