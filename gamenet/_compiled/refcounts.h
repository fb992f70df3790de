/* Whether an object is seen by nobody else: the only place that knows how reference counts are kept. */
#ifndef GAMENET_REFCOUNTS_H
#define GAMENET_REFCOUNTS_H

#include "Python.h"

/* The caller's reference is the only one, so nobody sees what is changed in the object. May say no where it is yes. */
static inline int gamenet_is_only_ours(PyObject *object)
{
#ifndef Py_GIL_DISABLED
    return Py_REFCNT(object) == 1;
#elif PY_VERSION_HEX >= 0x030E0000
    return PyUnstable_Object_IsUniquelyReferenced(object);
#else
    /* two counts, of the thread that made it and of all others: their sum, read by others, could miss a reference */
    return _Py_IsOwnedByCurrentThread(object) && _Py_atomic_load_uint32_relaxed(&object->ob_ref_local) == 1 &&
           _Py_atomic_load_ssize_relaxed(&object->ob_ref_shared) == 0;
#endif
}

#endif
