"""The adaptive controller: pure functions of numbers, and the little state around them."""
