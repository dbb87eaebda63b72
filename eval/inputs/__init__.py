"""What is evaluated: predictions of any tool, their columns and rows, and the run behind them."""
