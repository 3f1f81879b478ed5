"""Modbus without a wire: requests and answers, the three framings, and what late units still owe. Pure."""
