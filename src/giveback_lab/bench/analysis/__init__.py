"""What the measured cells say."""
