"""`python -m bench memory`: bytes of a server's memory per session, in each state that a session can be in."""
