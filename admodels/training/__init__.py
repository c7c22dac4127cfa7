"""What methods share that train networks, step by step within a budget."""
