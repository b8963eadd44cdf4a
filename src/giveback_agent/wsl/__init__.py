"""WSL 2: detection, `.wslconfig`, what Windows shows."""
