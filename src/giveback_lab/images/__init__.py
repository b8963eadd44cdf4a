"""Guest images, built from the distribution's packages."""
