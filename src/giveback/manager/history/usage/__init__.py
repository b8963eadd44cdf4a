"""What VMs used over days, from the history, and the RAM that would have sufficed for each."""
