"""What is measured: a module per twinned module.

A function that takes a twin (or, as a yardstick, nothing) returns a call that does the work once. Further arguments
replace what throws the results away by what keeps them: that is how outputs are compared.
"""
