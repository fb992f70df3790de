"""Servers over loopback, each a process of its own, under one load generator that checks every byte."""
