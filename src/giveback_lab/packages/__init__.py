"""Distribution packages without root, and the cache folder of what is made of them."""
