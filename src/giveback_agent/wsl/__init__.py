"""WSL 2: its detection, `.wslconfig`, and the VM as Windows shows it."""
