"""Devices: what computes a program."""
