cdef extern from "refcounts.h":
    bint is_only_ours "gamenet_is_only_ours"(object thing) noexcept  # the caller's reference is the only one
